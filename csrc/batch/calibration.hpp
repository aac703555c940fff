// From a ranker's logits to probabilities, by a rising table of knots: linear between them, slope 1 beyond.
#pragma once

#include <cstddef>

namespace aitems::batch {

struct Knots {
  const double* given;  // rises strictly
  const double* calibrated;
  std::size_t count;  // at least 1
};

// NaN where the logit is NaN.
void calibrated_probabilities(const double* logits, std::size_t count, const Knots& knots, float* out);

}  // namespace aitems::batch
