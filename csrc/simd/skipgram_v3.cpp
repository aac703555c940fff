#include "simd/skipgram_kernels.hpp"
#include "simd/skipgram_body.inc"

namespace aitems {
extern const SkipgramKernels kSkipgram_v3;
const SkipgramKernels kSkipgram_v3 = {scores, update};
}  // namespace aitems
