#include "simd/rerank_kernels.hpp"
#include "simd/rerank_body.inc"

namespace aitems {
extern const RerankKernels kRerank_baseline;
const RerankKernels kRerank_baseline = {dot, subtract, rotate};
}  // namespace aitems
