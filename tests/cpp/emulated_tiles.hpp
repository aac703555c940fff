// A SCALAR EMULATION of the AMX tile instructions behind the macros of csrc/simd/amx_tiles.inc, so that the tile logic of the kernels
// is tested on every machine: addresses, strides, tile roles, the order of rows and columns. That the instructions themselves are
// configured and encoded well is tested where there is AMX, by the Python tests of every level that runs.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>

namespace {

struct EmulatedTiles {
  unsigned char bytes[8][16][64];
  bool configured = false;
} tiles;

[[maybe_unused]] void emulated_load(int t, const void* from, std::size_t stride) {
  ASSERT_TRUE(tiles.configured);
  for (std::size_t r = 0; r < 16; ++r) std::memcpy(tiles.bytes[t][r], static_cast<const unsigned char*>(from) + r * stride, 64);
}
[[maybe_unused]] void emulated_store(int t, void* to, std::size_t stride) {
  ASSERT_TRUE(tiles.configured);
  for (std::size_t r = 0; r < 16; ++r) std::memcpy(static_cast<unsigned char*>(to) + r * stride, tiles.bytes[t][r], 64);
}
// As Intel's manual defines them: dst.row[m].dword[n] += sum over k, i of a.row[m].byte[4k + i] * b.row[k].byte[4n + i].
template <class A, class B>
void emulated_product(int sum, int a, int b) {
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      std::int32_t total;
      std::memcpy(&total, &tiles.bytes[sum][m][4 * n], 4);
      for (int k = 0; k < 16; ++k)
        for (int i = 0; i < 4; ++i) total += static_cast<A>(tiles.bytes[a][m][4 * k + i]) * static_cast<B>(tiles.bytes[b][k][4 * n + i]);
      std::memcpy(&tiles.bytes[sum][m][4 * n], &total, 4);
    }
}

}  // namespace

#define TILES_BEGIN() tiles.configured = true
#define TILES_END() tiles.configured = false
#define TILE_ZERO(t) std::memset(tiles.bytes[t], 0, sizeof(tiles.bytes[t]))
#define TILE_LOAD(t, from, stride) emulated_load(t, from, stride)
#define TILE_STREAM(t, from, stride) emulated_load(t, from, stride)
#define TILE_DPBUSD(sum, a, b) emulated_product<std::uint8_t, std::int8_t>(sum, a, b)
#define TILE_DPBSUD(sum, a, b) emulated_product<std::int8_t, std::uint8_t>(sum, a, b)
#define TILE_STORE(t, to, stride) emulated_store(t, to, stride)
