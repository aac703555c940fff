// The tile logic of the AMX product, run through a scalar emulation of the tile instructions (emulated_tiles.hpp); also that only
// readable memory is read.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "emulated_tiles.hpp"
#include "simd/kernels.hpp"
#include "simd/textcnn_kernels.hpp"

namespace aitems {
#include "simd/textcnn_amx_tiles.inc"

namespace {

struct Case {
  int rows, depth, panels, row_stride;
};

class AmxEmulated : public ::testing::TestWithParam<Case> {};

TEST_P(AmxEmulated, SumsEqualTheDefinition) {
  const Case c = GetParam();
  std::mt19937 random(1);
  const auto depth = static_cast<std::size_t>(c.depth), stride = static_cast<std::size_t>(c.row_stride);
  const std::size_t readable = static_cast<std::size_t>((c.rows + 31) / 32 * 32) * stride;
  std::vector<uint8_t> rows(readable);
  for (auto& v : rows) v = static_cast<uint8_t>(random());
  std::vector<int8_t> plain(static_cast<std::size_t>(c.panels) * 32 * depth), packed(plain.size());
  for (auto& v : plain) v = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
  for (std::size_t n = 0; n < static_cast<std::size_t>(c.panels) * 32; ++n)
    for (std::size_t k = 0; k < depth; ++k)
      packed[n / 32 * 32 * depth + k / 64 * 2048 + n % 32 / 16 * 1024 + k % 64 / 4 * 64 + n % 16 * 4 + k % 4] = plain[n * depth + k];

  TextCnnProduct p{};
  p.rows = rows.data();
  p.row_stride = stride;
  p.count = c.rows;
  p.depth = c.depth;
  p.weights = packed.data();
  p.panels = c.panels;
  std::vector<int> seen(static_cast<std::size_t>(c.rows * c.panels));
  amx_blocks(p, [&](int first, int here, int panel, const int32_t* sums) {
    for (int r = 0; r < here; ++r) {
      ++seen[static_cast<std::size_t>((first + r) * c.panels + panel)];
      for (int n = 0; n < 32; ++n) {
        int32_t expected = 0;
        for (std::size_t k = 0; k < depth; ++k)
          expected += rows[static_cast<std::size_t>(first + r) * stride + k] * plain[static_cast<std::size_t>(panel * 32 + n) * depth + k];
        ASSERT_EQ(sums[r * 32 + n], expected) << "row " << first + r << ", column " << panel * 32 + n;
      }
    }
  });
  for (int count : seen) EXPECT_EQ(count, 1);
  EXPECT_FALSE(tiles.configured);
}

INSTANTIATE_TEST_SUITE_P(Shapes, AmxEmulated,
                         ::testing::Values(Case{16, 64, 1, 64}, Case{31, 128, 2, 128}, Case{32, 64, 3, 64}, Case{33, 192, 2, 192},
                                           Case{80, 64, 1, 128}, Case{17, 320, 2, 384}));

}  // namespace
}  // namespace aitems
