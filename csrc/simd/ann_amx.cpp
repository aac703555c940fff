// AMX INT8 tiles for groups of 16 and more queries, on the same packed blocks: a block's lines are already the second operand of
// the tile product. Everything else is the AVX-512 level's. Where there is no AMX the tile logic still runs through a scalar emulation
// (tests/cpp/test_ann_amx.cpp).
#include "simd/ann_v4.inc"

namespace {

struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t column_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// Configured for each call and released after it: other libraries in the process reshape or release the tiles of their thread.
inline void tiles_begin() {
  TileConfig config;
  for (int t = 0; t < 8; ++t) {
    config.column_bytes[t] = 64;
    config.rows[t] = 16;
  }
  // GCC 12 believes that ldtilecfg reads 8 bytes and drops the other stores: the empty asm makes it write them all.
  __asm__ volatile("" : : "m"(config) : "memory");
  _tile_loadconfig(&config);
}

}  // namespace

#define BARRIER() __asm__ volatile("" : : : "memory")  // GCC's tile loads and stores name no memory operand
#define TILES_BEGIN() \
  do {                \
    BARRIER();        \
    tiles_begin();    \
  } while (false)
#define TILES_END() _tile_release()
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, from, stride) _tile_loadd(t, from, stride)
#define TILE_STREAM(t, from, stride) _tile_stream_loadd(t, from, stride)
#define TILE_DPBSUD(sum, a, b) _tile_dpbsud(sum, a, b)
#define TILE_STORE(t, to, stride) \
  do {                            \
    _tile_stored(t, to, stride);  \
    BARRIER();                    \
  } while (false)

#include "simd/ann_amx_tiles.inc"

namespace {

constexpr std::int32_t kAmxDimMax = 1024;  // 32 queries of so many codes are copied together on the stack

void scan_tiles(const aitems::AnnBlocks* blocks, std::size_t begin, std::size_t end, aitems::AnnQuery* queries,
                std::int32_t num_queries) {
  const std::int32_t dim = blocks->code_dim;
  std::int32_t q = 0;
  if (dim % kTileDims == 0 && dim <= kAmxDimMax) {
    alignas(64) std::int8_t codes[2 * kTileQueries * kAmxDimMax];
    while (num_queries - q >= kTileQueries) {
      const std::int32_t tiles = num_queries - q >= 2 * kTileQueries ? 2 : 1, taken = tiles * kTileQueries;
      for (std::int32_t i = 0; i < taken; ++i)
        __builtin_memcpy(codes + static_cast<std::size_t>(i) * static_cast<std::size_t>(dim), queries[q + i].codes,
                         static_cast<std::size_t>(dim));
      aitems::AnnQuery* group = queries + q;
      tile_sums(blocks->codes, begin, end, codes, dim, tiles, [&](std::size_t b, int held, const std::int32_t* sums) {
        for (int block = 0; block < held; ++block)
          for (std::int32_t i = 0; i < taken; ++i) {
            const __m512i sum = _mm512_load_si512(sums + i * 32 + block * kLanes);
            keep_above(blocks, b + static_cast<std::size_t>(block), group + i,
                       _mm512_sub_epi32(sum, _mm512_set1_epi32(group[i].correction)));
          }
      });
      q += taken;
    }
  }
  if (q < num_queries) scan(blocks, begin, end, queries + q, num_queries - q);
}

}  // namespace

namespace aitems {
extern const AnnKernels kAnn_amx;
const AnnKernels kAnn_amx = {over_rows<float, dot_one>,
                             over_rows<float, distance_one>,
                             over_rows<std::uint16_t, dot_half_one>,
                             over_rows<std::uint16_t, distance_half_one>,
                             collect,
                             scan_tiles,
                             cut};
}  // namespace aitems
