// The kernel of csrc/rerank. Sums are taken in one order at every level (16 partial sums, see rerank_body.inc), so a page is the same
// on every processor.
#pragma once

#include <cstddef>

namespace aitems {

struct RerankKernels {
  // a . b over `dim` values
  float (*dot)(const float* a, const float* b, std::size_t dim);
};

}  // namespace aitems
