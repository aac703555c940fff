#include "simd/kernels.hpp"
#include "simd/probe_body.inc"

namespace aitems {
extern const ProbeKernels kProbe_baseline;
const ProbeKernels kProbe_baseline = {compiled_for};
}  // namespace aitems
