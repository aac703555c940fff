#include "simd/kernels.hpp"
#include "simd/probe_body.inc"

namespace aitems {
extern const ProbeKernels kProbe_neon;
const ProbeKernels kProbe_neon = {compiled_for};
}  // namespace aitems
