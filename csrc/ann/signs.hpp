// A coarse first stage for single queries at high dimension: one bit a dimension, the sign of what a vector has beyond its list's
// centroid, from which its score is estimated without bias (RaBitQ, Gao and Long 2024, without the rotation). A list is read at an
// eighth of the bytes of its 8-bit codes; the best estimates are scored exactly.
#pragma once

#include <cstdint>
#include <vector>

#include "base/column.hpp"
#include "simd/ann_kernels.hpp"

namespace aitems::ann {

struct Segment;

constexpr int kSignLineDims = 32;
constexpr int kSignDimMax = kSignLinesMax * kSignLineDims;

constexpr int sign_lines(int dim) { return (dim + kSignLineDims - 1) / kSignLineDims; }

struct SignTable {
  Column<std::uint8_t> codes;  // rows * sign_lines * 4, as in AnnSigns
  Column<float> factors;       // rows: |r|^2 / sum |r_d| of the residual r
  bool empty() const { return codes.empty(); }
  std::size_t bytes() const { return codes.bytes() + factors.bytes(); }
};

// The signs of a segment that has lists and vectors. The same for any `threads`.
SignTable build_signs(const Segment& segment, int threads);

// What a query is looked up with, in every list; AnnSignQuery::base is the list's own.
void make_sign_tables(const float* query, int dim, std::vector<std::uint8_t>& tables, AnnSignQuery& out);

}  // namespace aitems::ann
