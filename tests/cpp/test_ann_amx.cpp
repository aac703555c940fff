// The tile logic of the AMX scan, run through a SCALAR EMULATION of the tile instructions, so that it is tested on every machine:
// addresses, strides, tile roles, the order of queries and rows. That the instructions themselves are configured and encoded well
// is tested where there is AMX: tests/unit/test_ann_search.py compares every level that runs.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

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

#define TILES_BEGIN() tiles.configured = true
#define TILES_END() tiles.configured = false
#define TILE_ZERO(t) std::memset(tiles.bytes[t], 0, sizeof(tiles.bytes[t]))
#define TILE_LOAD(t, from, stride) emulated_load(t, from, stride)
#define TILE_STREAM(t, from, stride) emulated_load(t, from, stride)
#define TILE_DPBSUD(sum, a, b) emulated_dpbsud(sum, a, b)
#define TILE_STORE(t, to, stride) emulated_store(t, to, stride)

#include "simd/ann_amx_tiles.inc"

namespace {

TEST(AnnAmxEmulated, SumsEqualTheDefinition) {
  std::mt19937 random(1);
  for (const int dim : {64, 128, 384})
    for (const int query_tiles : {1, 2})
      for (const std::size_t end : {std::size_t{2}, std::size_t{5}, std::size_t{6}}) {
        const std::size_t begin = 1, width = static_cast<std::size_t>(dim);
        std::vector<std::uint8_t> packed(end * 16 * width);
        std::vector<std::int8_t> queries(static_cast<std::size_t>(query_tiles) * 16 * width);
        for (auto& v : packed) v = static_cast<std::uint8_t>(random());
        for (auto& v : queries) v = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
        std::size_t next = begin;
        tile_sums(packed.data(), begin, end, queries.data(), dim, query_tiles, [&](std::size_t b, int held, const std::int32_t* sums) {
          EXPECT_EQ(b, next);
          next += static_cast<std::size_t>(held);
          for (int block = 0; block < held; ++block)
            for (std::size_t q = 0; q < static_cast<std::size_t>(query_tiles) * 16; ++q)
              for (std::size_t row = 0; row < 16; ++row) {
                std::int32_t expected = 0;
                for (std::size_t d = 0; d < width; ++d)  // line d / 4 of a block: four bytes a row
                  expected += packed[(b + static_cast<std::size_t>(block)) * 16 * width + d / 4 * 64 + row * 4 + d % 4] * queries[q * width + d];
                ASSERT_EQ(sums[q * 32 + static_cast<std::size_t>(block) * 16 + row], expected);
              }
        });
        EXPECT_EQ(next, end);
      }
}

}  // namespace
