#include "simd/kernels.hpp"
#include "simd/probe_body.inc"

namespace aitems {
extern const ProbeKernels kProbe_v4;
const ProbeKernels kProbe_v4 = {compiled_for};
}  // namespace aitems
