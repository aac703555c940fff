// The tile logic of the AMX scan, run through a SCALAR EMULATION of the tile instructions, so that it is tested on every machine:
// addresses, strides, tile roles, the order of queries and rows. That the instructions themselves are configured and encoded well
// is tested where there is AMX: tests/unit/test_ann_search.py compares every level that runs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace {

struct EmulatedTiles {
  unsigned char bytes[8][16][64];
} tiles;

void emulated_load(int t, const void* from, std::size_t stride) {
  for (std::size_t r = 0; r < 16; ++r) std::memcpy(tiles.bytes[t][r], static_cast<const unsigned char*>(from) + r * stride, 64);
}
void emulated_store(int t, void* to, std::size_t stride) {
  for (std::size_t r = 0; r < 16; ++r) std::memcpy(static_cast<unsigned char*>(to) + r * stride, tiles.bytes[t][r], 64);
}
// TDPBSUD as Intel's manual defines it: dst.row[m].dword[n] += sum over k, i of s8 a.row[m].byte[4k + i] * u8 b.row[k].byte[4n + i].
void emulated_dpbsud(int sum, int a, int b) {
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      std::int32_t total;
      std::memcpy(&total, &tiles.bytes[sum][m][4 * n], 4);
      for (int k = 0; k < 16; ++k)
        for (int i = 0; i < 4; ++i) total += static_cast<std::int8_t>(tiles.bytes[a][m][4 * k + i]) * tiles.bytes[b][k][4 * n + i];
      std::memcpy(&tiles.bytes[sum][m][4 * n], &total, 4);
    }
}

}  // namespace

#define TILE_ZERO(t) std::memset(tiles.bytes[t], 0, sizeof(tiles.bytes[t]))
#define TILE_LOAD(t, from, stride) emulated_load(t, from, stride)
#define TILE_DPBSUD(sum, a, b) emulated_dpbsud(sum, a, b)
#define TILE_STORE(t, to, stride) emulated_store(t, to, stride)

#include "simd/ann_amx_tiles.inc"

namespace {

TEST(AnnAmxEmulated, SumsEqualTheDefinition) {
  std::mt19937 random(1);
  for (const int dim : {64, 128, 384})
    for (const int query_tiles : {1, 2})
      for (const std::size_t end : {2, 3, 5, 6, 7, 9, 10, 14, 18}) {
        const std::size_t begin = 1, width = static_cast<std::size_t>(dim);
        std::vector<std::uint8_t> packed(end * 16 * width);
        std::vector<std::int8_t> queries(static_cast<std::size_t>(query_tiles) * 16 * width);
        for (auto& v : packed) v = static_cast<std::uint8_t>(random());
        for (auto& v : queries) v = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
        std::size_t calls = 0;
        tile_scan(packed.data(), begin, end, queries.data(), dim, query_tiles, false,
                  [&](std::size_t b, std::size_t held, int part, const std::int32_t* sums) {
                    ASSERT_EQ(b, begin + calls / 4 * kTileBlocks);
                    ASSERT_EQ(held, std::min(kTileBlocks, end - b));
                    ASSERT_EQ(static_cast<std::size_t>(part), calls++ % 4);
                    for (std::size_t t = 0; t < static_cast<std::size_t>(query_tiles); ++t)
                      for (std::size_t k = 0; k < held; ++k)
                        for (std::size_t q = static_cast<std::size_t>(part) * 4; q < static_cast<std::size_t>(part) * 4 + 4; ++q)
                          for (std::size_t row = 0; row < 16; ++row) {
                            std::int32_t expected = 0;
                            for (std::size_t d = 0; d < width; ++d)  // line d / 4 of a block: four bytes a row
                              expected += packed[(b + k) * 16 * width + d / 4 * 64 + row * 4 + d % 4] * queries[(t * 16 + q) * width + d];
                            ASSERT_EQ(sums[(t * kTileBlocks + k) * kTileSums + q * 16 + row], expected);
                          }
                  });
        EXPECT_EQ(calls, (end - begin + kTileBlocks - 1) / kTileBlocks * 4);
      }
}

}  // namespace
