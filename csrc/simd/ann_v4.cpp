#include "simd/ann_v4.inc"

namespace aitems {
extern const AnnKernels kAnn_v4;
const AnnKernels kAnn_v4 = {over_rows<float, dot_one>,
                            over_rows<float, distance_one>,
                            over_rows<std::uint16_t, dot_half_one>,
                            over_rows<std::uint16_t, distance_half_one>,
                            largest,
                            quantize,
                            collect,
                            scan,
                            scan_signs,
                            cut,
                            nothing,
                            nothing};
}  // namespace aitems
