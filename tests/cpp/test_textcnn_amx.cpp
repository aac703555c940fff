// The tile logic of the AMX product, run through a SCALAR EMULATION of the tile instructions: no AMX hardware is involved. What it
// shows: addresses, strides, tile roles, the order of rows and columns, and that only readable memory is read. What it cannot show:
// that the instructions themselves are configured and encoded well; for that, textcnn_amx.cpp must run on a machine with AMX.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "simd/kernels.hpp"
#include "simd/textcnn_kernels.hpp"

namespace {

struct EmulatedTiles {
  unsigned char bytes[8][16][64];
  bool configured = false;
} tiles;

void emulated_load(int t, const void* from, std::size_t stride) {
  ASSERT_TRUE(tiles.configured);
  for (std::size_t r = 0; r < 16; ++r) std::memcpy(tiles.bytes[t][r], static_cast<const unsigned char*>(from) + r * stride, 64);
}
void emulated_store(int t, void* to, std::size_t stride) {
  for (std::size_t r = 0; r < 16; ++r) std::memcpy(static_cast<unsigned char*>(to) + r * stride, tiles.bytes[t][r], 64);
}
// TDPBUSD as Intel's manual defines it: dst.row[m].dword[n] += sum over k, i of u8 a.row[m].byte[4k + i] * s8 b.row[k].byte[4n + i].
void emulated_dpbusd(int sum, int a, int b) {
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      int32_t total;
      std::memcpy(&total, &tiles.bytes[sum][m][4 * n], 4);
      for (int k = 0; k < 16; ++k)
        for (int i = 0; i < 4; ++i) total += tiles.bytes[a][m][4 * k + i] * static_cast<int8_t>(tiles.bytes[b][k][4 * n + i]);
      std::memcpy(&tiles.bytes[sum][m][4 * n], &total, 4);
    }
}

}  // namespace

#define TILES_BEGIN() tiles.configured = true
#define TILES_END() tiles.configured = false
#define TILE_ZERO(t) std::memset(tiles.bytes[t], 0, sizeof(tiles.bytes[t]))
#define TILE_LOAD(t, from, stride) emulated_load(t, from, stride)
#define TILE_STREAM(t, from, stride) emulated_load(t, from, stride)
#define TILE_DPBUSD(sum, a, b) emulated_dpbusd(sum, a, b)
#define TILE_STORE(t, to, stride) emulated_store(t, to, stride)

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
