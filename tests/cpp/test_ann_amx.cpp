// The tile logic of the AMX scan, run through a scalar emulation of the tile instructions (emulated_tiles.hpp).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "emulated_tiles.hpp"

#include "simd/ann_amx_tiles.inc"

namespace {

TEST(AnnAmxEmulated, SumsEqualTheDefinition) {
  TILES_BEGIN();
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
