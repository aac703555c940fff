// The kernels of csrc/embedding: `centre` and each of `count` rows are `blocks` * 16 floats.
#pragma once

#include <cstddef>

namespace aitems {

struct SkipgramKernels {
  // out[t] = centre . rows[t]
  void (*scores)(const float* centre, float* const* rows, std::size_t count, std::size_t blocks, float* out);
  // Adds gains[t] * centre to rows[t], and gains[t] * rows[t] (all as they were before) to centre.
  void (*update)(float* centre, float* const* rows, const float* gains, std::size_t count, std::size_t blocks);
};

}  // namespace aitems
