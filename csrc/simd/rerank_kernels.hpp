// The kernels of csrc/rerank. Sums are taken in one order at every level (32 partial sums, see rerank_body.inc), so a page is the same
// on every processor.
#pragma once

#include <cstddef>

namespace aitems {

constexpr std::size_t kRerankGroup = 32;

struct RerankKernels {
  // a . b over `groups` * 32 values
  float (*dot)(const float* a, const float* b, std::size_t groups);
  // values[i] -= factor * other[i]
  void (*subtract)(double factor, const double* other, double* values, std::size_t count);
  // x[i], y[i] = cosine * x[i] + sine * y[i], cosine * y[i] - sine * x[i]
  void (*rotate)(double cosine, double sine, double* x, double* y, std::size_t count);
};

}  // namespace aitems
