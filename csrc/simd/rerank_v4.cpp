#include "simd/rerank_kernels.hpp"
#include "simd/rerank_body.inc"

namespace aitems {
extern const RerankKernels kRerank_v4;
const RerankKernels kRerank_v4 = {dot, subtract, rotate};
}  // namespace aitems
