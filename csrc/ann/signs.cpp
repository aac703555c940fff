#include "ann/signs.hpp"

#include <algorithm>
#include <cmath>

#include "ann/segment.hpp"
#include "base/thread_pool.hpp"

namespace aitems::ann {
namespace {

// Where the bit of a dimension is in the bytes of a block, for its first row.
struct Place {
  explicit Place(int dim)
      : byte(static_cast<std::size_t>(dim / kSignLineDims * 64 + dim % kSignLineDims / 8 * 16)), bit(dim % 8) {}
  std::size_t byte;
  int bit;
};

}  // namespace

SignTable build_signs(const Segment& s, int threads) {
  const std::size_t dim = static_cast<std::size_t>(s.dim), block_bytes = static_cast<std::size_t>(sign_lines(s.dim)) * 64;
  AlignedBuffer<std::uint8_t> codes(s.blocks() * block_bytes);  // zeros
  AlignedBuffer<float> factors(s.rows);
  parallel_for(static_cast<std::size_t>(s.lists), 16, threads, [&](std::size_t begin, std::size_t end, int) {
    std::vector<float> centroid(dim), x(static_cast<std::size_t>(s.stride()));
    for (std::size_t list = begin; list < end; ++list) {
      // As a search sees it: rounded to codes.
      const std::uint8_t* block = s.centroids.codes.data() + list / kBlockRows * kBlockRows * static_cast<std::size_t>(s.code_dim());
      for (std::size_t d = 0; d < dim; ++d)
        centroid[d] = s.centroids.scales[list] * static_cast<float>(block[d / 4 * 64 + list % kBlockRows * 4 + d % 4] - 128);
      for (std::size_t row = s.list_blocks[list] * std::size_t{kBlockRows}; row < s.list_blocks[list + 1] * std::size_t{kBlockRows}; ++row) {
        if (!(s.present[row / kBlockRows] >> row % kBlockRows & 1)) continue;
        s.widen(row, x.data());
        std::uint8_t* packed = codes.data() + row / kBlockRows * block_bytes + row % kBlockRows;
        double squares = 0, magnitudes = 0;
        for (std::size_t d = 0; d < dim; ++d) {
          const double beyond = static_cast<double>(x[d]) - static_cast<double>(centroid[d]);
          squares += beyond * beyond;
          magnitudes += std::abs(beyond);
          const Place place(static_cast<int>(d));
          if (beyond > 0) packed[place.byte] = static_cast<std::uint8_t>(packed[place.byte] | 1 << place.bit);
        }
        factors[row] = magnitudes > 0 ? static_cast<float>(squares / magnitudes) : 0;
      }
    }
  });
  return {Column<std::uint8_t>(std::move(codes)), Column<float>(std::move(factors))};
}

void make_sign_tables(const float* query, int dim, std::vector<std::uint8_t>& tables, AnnSignQuery& out) {
  constexpr int kGroup = 4;  // dimensions of one half of a byte
  const int groups = sign_lines(dim) * kSignLineDims / kGroup;
  const auto at = [&](int d) { return d < dim ? query[d] : 0.f; };
  float widest = 0, offset = 0;
  for (int g = 0; g < groups; ++g) {
    float sum = 0;
    for (int d = g * kGroup; d < (g + 1) * kGroup; ++d) sum += std::abs(at(d));
    widest = std::max(widest, sum);
    offset += sum;
  }
  // An entry is what the set bits add to the sum of all signs at minus: between 0 and twice the group's magnitudes.
  out.step = widest > 0 ? 2 * widest / kSignEntryMax : 1;
  out.offset = offset;
  out.base = 0;
  tables.resize(static_cast<std::size_t>(groups) * 16);
  const float inverse = 1 / out.step;
  for (int g = 0; g < groups; ++g) {
    const Place place(g * kGroup);
    // 16 j + r of a line becomes table 16 j of its low or its high half
    std::uint8_t* table = &tables[place.byte / 64 * 128 + (place.bit ? 64 : 0) + place.byte % 64];
    float entry[16] = {0};
    for (int d = 0; d < kGroup; ++d) entry[0] += std::abs(at(g * kGroup + d)) - at(g * kGroup + d);
    for (int d = 0; d < kGroup; ++d)
      for (int code = 0; code < 1 << d; ++code) entry[code | 1 << d] = entry[code] + 2 * at(g * kGroup + d);
    for (int code = 0; code < 16; ++code)
      table[code] = static_cast<std::uint8_t>(std::clamp(entry[code] * inverse + .5f, 0.f, static_cast<float>(kSignEntryMax)));
  }
  out.tables = tables.data();
}

}  // namespace aitems::ann
