#include "simd/rerank_kernels.hpp"
#include "simd/rerank_body.inc"

namespace aitems {
extern const RerankKernels kRerank_v4;
const RerankKernels kRerank_v4 = {dot, dot_less, subtract, rotate};
}  // namespace aitems
