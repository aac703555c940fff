#include "simd/rerank_kernels.hpp"
#include "simd/rerank_body.inc"

namespace aitems {
extern const RerankKernels kRerank_v3;
const RerankKernels kRerank_v3 = {dot, subtract, rotate};
}  // namespace aitems
