#include "simd/skipgram_kernels.hpp"
#include "simd/skipgram_body.inc"

namespace aitems {
extern const SkipgramKernels kSkipgram_baseline;
const SkipgramKernels kSkipgram_baseline = {scores, update};
}  // namespace aitems
