#include "ann/check.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "ann/segment.hpp"
#include "base/error.hpp"
#include "simd/kernels.hpp"

namespace aitems::ann {

void check_vectors(const float* rows, std::size_t count, int dim, const char* what) {
  const AnnKernels& simd = *kernels(active_isa()).ann;
  const std::size_t width = static_cast<std::size_t>(dim);
  for (std::size_t i = 0; i < count; ++i) {
    const float* x = rows + i * width;
    const float most = simd.largest(x, dim);
    bool odd = !(most <= kNormMax);  // NaN, too
    // The norm is at most sqrt(dim) times the largest component; only near the limit is it worth computing.
    if (!odd && most * std::sqrt(static_cast<float>(dim)) > kNormMax) {
      double squared = 0;
      for (std::size_t d = 0; d < width; ++d) squared += static_cast<double>(x[d]) * x[d];
      odd = std::sqrt(squared) > static_cast<double>(kNormMax);
    }
    if (!odd) continue;
    for (std::size_t d = 0; d < width; ++d)
      if (!std::isfinite(x[d]))
        throw Error(ErrorKind::kInvalidInput, std::string(what) + " " + std::to_string(i) + " holds " + (std::isnan(x[d]) ? "NaN" : "infinity") +
                                                  " at position " + std::to_string(d) + "; all values must be finite");
    throw Error(ErrorKind::kInvalidInput, std::string(what) + " " + std::to_string(i) + " has a norm above 1e18, so that scores could overflow; scale the vectors down");
  }
}

void check_ids(const std::int64_t* ids, std::size_t count) {
  std::vector<std::int64_t> sorted(ids, ids + count);
  for (std::size_t i = 0; i < count; ++i)
    if (ids[i] < 0)
      throw Error(ErrorKind::kInvalidInput, "ids must be 0 or more, because -1 marks missing results; id " + std::to_string(ids[i]) + " stands at position " + std::to_string(i));
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end()) throw Error(ErrorKind::kInvalidInput, "ids must be distinct; id " + std::to_string(*twice) + " is given twice");
}

void check_half(const float* values, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i)
    if (std::fabs(values[i]) > 65504.f)
      throw Error(ErrorKind::kInvalidInput, "half-precision re-ranking holds values up to 65504, got " + std::to_string(values[i]) + "; use rerank='float'");
}

std::vector<float> normalized(const float* rows, std::size_t count, int dim) {
  const std::size_t width = static_cast<std::size_t>(dim);
  std::vector<float> out(count * width);
  for (std::size_t i = 0; i < count; ++i) {
    double squared = 0;
    for (std::size_t d = 0; d < width; ++d) squared += static_cast<double>(rows[i * width + d]) * rows[i * width + d];
    const double inverse = squared > 0 ? 1 / std::sqrt(squared) : 0;
    for (std::size_t d = 0; d < width; ++d) out[i * width + d] = static_cast<float>(rows[i * width + d] * inverse);
  }
  return out;
}

}  // namespace aitems::ann
