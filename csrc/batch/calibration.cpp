#include "batch/calibration.hpp"

#include <algorithm>
#include <cmath>

namespace aitems::batch {

void calibrated_probabilities(const double* logits, std::size_t count, const Knots& knots, float* out) {
  const double *const first = knots.given, *const last = first + knots.count - 1;
  for (std::size_t i = 0; i < count; ++i) {
    const double inside = std::clamp(logits[i], *first, *last);
    double value = logits[i] - inside;
    // the last knot that is not above it, but for the end
    const std::size_t knot = static_cast<std::size_t>(std::upper_bound(first + 1, last + (knots.count == 1), inside) - first) - 1;
    value += knots.calibrated[knot];
    if (knot + 1 < knots.count) value += (inside - first[knot]) * (knots.calibrated[knot + 1] - knots.calibrated[knot]) / (first[knot + 1] - first[knot]);
    const double small = std::exp(-std::abs(value));
    out[i] = static_cast<float>((value < 0 ? small : 1.0) / (1.0 + small));
  }
}

}  // namespace aitems::batch
