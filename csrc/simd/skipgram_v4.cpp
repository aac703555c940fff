#include "simd/skipgram_kernels.hpp"
#include "simd/skipgram_body.inc"

namespace aitems {
extern const SkipgramKernels kSkipgram_v4;
const SkipgramKernels kSkipgram_v4 = {scores, update};
}  // namespace aitems
