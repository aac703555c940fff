#include "simd/kernels.hpp"
#include "simd/probe_body.inc"

namespace aitems {
extern const ProbeKernels kProbe_amx;
const ProbeKernels kProbe_amx = {compiled_for};
}  // namespace aitems
