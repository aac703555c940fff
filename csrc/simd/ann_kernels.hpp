// Kernels of the nearest-neighbour search. They see packed arrays only; what a row means is known in csrc/ann.
//
// Every level gives the same bits: integer sums are exact, and float sums are taken in one fixed order (16 partial sums, lane
// l over the dimensions l, l + 16, ...; then 8 + 8, 4 + 4, 2 + 2, 1 + 1) without fused multiply-add.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aitems {

// One query and its candidate buffer, filled by the kernels and cut by `cut`.
struct AnnQuery {
  const std::int8_t* codes;  // code_dim signed codes; see `scan`
  std::int32_t correction;   // 128 * sum of the codes: item codes are stored as code + 128
  float bias_factor;         // what a row's bias is multiplied with, to come into the units of this query's code sums
  float threshold;           // a row is kept when its score is above it
  float* scores;
  std::uint32_t* rows;
  std::int32_t count;
};

// Packed 8-bit rows. A block is 16 rows; line g of a block holds the dimensions 4g .. 4g + 3 of its rows, four bytes a row.
// One layout for every form: a line is a vector of 16 lanes for one query, and the second operand of an int8 tile product.
struct AnnBlocks {
  const std::uint8_t* codes;  // blocks * code_dim * 16
  const float* scales;        // a row's score is its integer sum times this ...
  const float* biases;        // ... plus this times bias_factor; null: no bias
  const std::uint16_t* live;  // bit i of live[b]: row 16 b + i may be returned
  std::int32_t code_dim;      // multiple of 4
};

// One bit a dimension: the sign of what a row has beyond the centroid of its list. Packed like AnnBlocks, but a line of 64 bytes holds 32
// dimensions of a block's rows: byte 16 j + r belongs to row r; its low half to the dimensions 8 j .. 8 j + 3 of the line, bit 0 first, its
// high half to the four after them.
struct AnnSigns {
  const std::uint8_t* codes;  // blocks * lines * 64
  const float* factors;       // a row's score is base + (step * sum - offset) * factor ...
  const float* biases;        // ... plus this; null: no bias
  const std::uint16_t* live;  // as in AnnBlocks
  std::int32_t lines;
};

// What is looked up for one query: `lines` times 128 bytes, 16 for each of 8 halves of bytes: first the low ones of a line, then the high ones.
struct AnnSignQuery {
  const std::uint8_t* tables;  // entries of at most kSignEntryMax
  float step, offset, base;
};
constexpr int kSignEntryMax = 127;      // two are added in a byte
constexpr std::int32_t kSignLinesMax = 64;  // 64 * 8 entries of 127 are still a 16-bit number

constexpr std::size_t kAnnQueriesRead = 32;  // codes of queries that a kernel reads at a time

struct AnnKernels {
  // out[i] = <query, row> for row = base + (rows ? rows[i] : i) * stride, over `stride` dimensions (a multiple of 16).
  void (*dot)(const float* query, const float* base, std::int32_t stride, const std::uint32_t* rows, std::size_t count, float* out);
  // out[i] = -|query - row|^2
  void (*negative_distance)(const float* query, const float* base, std::int32_t stride, const std::uint32_t* rows, std::size_t count,
                            float* out);
  // Half-precision rows; the arithmetic is that of `dot` and `negative_distance` on the widened values.
  void (*dot_half)(const float* query, const std::uint16_t* base, std::int32_t stride, const std::uint32_t* rows, std::size_t count,
                   float* out);
  void (*negative_distance_half)(const float* query, const std::uint16_t* base, std::int32_t stride, const std::uint32_t* rows,
                                 std::size_t count, float* out);
  // The largest magnitude in x; NaN if there is one.
  float (*largest)(const float* x, std::int32_t dim);
  // codes[d] = x[d] * inverse_scale, rounded half away from zero. The product must be at most 127 in magnitude.
  void (*quantize)(const float* x, std::int32_t dim, float inverse_scale, std::int8_t* codes);
  // Appends first_row + i to the query's buffer for each of `count` scores that is above the threshold and live.
  // live[0] belongs to the 16 rows from first_row on. The buffer must hold count + 16 more.
  void (*collect)(const float* scores, std::size_t count, std::uint32_t first_row, const std::uint16_t* live, AnnQuery* query);
  // Scores the blocks [begin, end) for each query and appends the rows above its threshold. The queries' codes lie one after another,
  // with kAnnQueriesRead more to read behind them. Each buffer must hold (end - begin + 1) * 16 more.
  void (*scan)(const AnnBlocks* blocks, std::size_t begin, std::size_t end, AnnQuery* queries, std::int32_t num_queries);
  // Like `scan`, for one query and its signs.
  void (*scan_signs)(const AnnSigns* blocks, std::size_t begin, std::size_t end, const AnnSignQuery* signs, AnnQuery* query);
  // Raises the query's threshold by bisection so that at least `keep` candidates stay above it, and drops the others, order kept.
  // Never drops one of the best `keep`. Ties can keep it from dropping anything.
  void (*cut)(AnnQuery* query, std::int32_t keep);
  // Around all calls of `scan` that one thread makes for one search: the AMX level holds its tiles in between.
  void (*enter)();
  void (*leave)();
};

}  // namespace aitems
