// Kernels of the graph search: they score 8-bit rows that lie apart, where those of ann_kernels.hpp stream through blocks.
// Every level gives the same bits: integer sums are exact, and what follows them is one multiplication and one addition.
#pragma once

#include <cstdint>

#include "simd/ann_kernels.hpp"

namespace aitems {

// Row-major 8-bit rows: a row is one or a few whole cache lines.
struct AnnRowCodes {
  const std::uint8_t* codes;   // rows * stride; a code is stored as code + 128
  const std::uint8_t* levels;  // by row: which of `scales`. A byte a row stays in a nearer cache than a float would
  const float* scales;         // 256
  const float* biases;         // as in AnnBlocks; null: no bias
  std::int32_t stride;         // multiple of 64
};

struct AnnGraphKernels {
  // scores[i] = integer sum of rows[i] times its scale, plus its bias times bias_factor. The query has `stride` codes.
  void (*score)(const AnnRowCodes* table, const AnnQuery* query, const std::uint32_t* rows, std::int32_t count, float* scores);
};

}  // namespace aitems
