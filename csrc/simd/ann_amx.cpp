// AMX INT8 tiles for groups of queries, on the same packed blocks: a block's lines are already the second operand of the tile
// product. Everything else is the AVX-512 level's. Where there is no AMX the tile logic still runs through a scalar emulation
// (tests/cpp/test_ann_amx.cpp).
#include "simd/ann_v4.inc"

#include "simd/amx_tiles.inc"
#include "simd/ann_amx_tiles.inc"

namespace {

void enter() { TILES_BEGIN(); }
void leave() { TILES_END(); }

// Queries from which on a tile pays: it costs the same however many of its rows are used. Longer codes pay sooner.
constexpr std::int32_t amx_pays(std::int32_t dim) { return dim == kTileDims ? 12 : 4; }
constexpr std::int32_t kGroupQueries = 2 * kTileQueries;
static_assert(aitems::kAnnQueriesRead == kGroupQueries, "a tile reads codes of queries that are not there");

// Thresholds in the units of the integer sums: a sum that is not above its limit cannot have a score above the threshold.
// Four blocks share one scale (csrc/ann/segment.cpp); where they do not, everything passes.
struct Limits {
  alignas(64) float threshold[kGroupQueries];
  alignas(64) std::int32_t correction[kGroupQueries];
  alignas(64) std::int32_t limit[kGroupQueries];

  void set(const aitems::AnnBlocks* blocks, std::size_t b, std::size_t held) {
    const __m512 scale = _mm512_set1_ps(blocks->scales[b * kLanes]);
    bool shared = !blocks->biases;
    for (std::size_t i = 0; i < held; ++i)
      shared &= _mm512_cmp_ps_mask(_mm512_loadu_ps(blocks->scales + (b + i) * kLanes), scale, _CMP_NEQ_UQ) == 0;
    const __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1), scale);
    for (std::int32_t q = 0; q < kGroupQueries; q += kLanes) {
      const __m512 most = _mm512_set1_ps(0x1p30f), least = _mm512_set1_ps(-0x1p30f);  // beyond all sums
      const __m512 wanted = _mm512_mul_ps(_mm512_load_ps(threshold + q), inverse);
      const __m512 bounded = shared ? _mm512_max_ps(_mm512_min_ps(wanted, most), least) : least;
      // One unit and 2^-20 of the value below: more than the roundings of the product, the quotient and the sum as a float.
      const __m512 slack = _mm512_fmadd_ps(_mm512_abs_ps(bounded), _mm512_set1_ps(0x1p-20f), _mm512_set1_ps(1));
      const __m512i units = _mm512_cvt_roundps_epi32(_mm512_sub_ps(bounded, slack), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
      _mm512_store_si512(limit + q, _mm512_add_epi32(units, _mm512_load_si512(correction + q)));
    }
  }
};

// One tile of a quarter's four queries: which have a sum above their limit.
template <std::size_t Held>
inline std::uint32_t rough(const std::int32_t* sums, const std::int32_t* limit) {
  std::uint32_t above = 0;
  for (int i = 0; i < 4; ++i) {
    __m512i most = _mm512_load_si512(sums + i * kLanes);
    for (std::size_t b = 1; b < Held; ++b)
      most = _mm512_max_epi32(most, _mm512_load_si512(sums + b * kTileSums + static_cast<std::size_t>(i * kLanes)));
    above |= static_cast<std::uint32_t>(_mm512_cmpgt_epi32_mask(most, _mm512_set1_epi32(limit[i])) != 0) << i;
  }
  return above;
}

void scan_tiles(const aitems::AnnBlocks* blocks, std::size_t begin, std::size_t end, aitems::AnnQuery* queries,
                std::int32_t num_queries) {
  const std::int32_t dim = blocks->code_dim;
  std::int32_t q = 0;
  if (dim % kTileDims == 0) {
    Limits limits;
    while (num_queries - q >= amx_pays(dim)) {
      const std::int32_t taken = num_queries - q < kGroupQueries ? num_queries - q : kGroupQueries;
      const std::int32_t tiles = taken > kTileQueries ? 2 : 1;
      aitems::AnnQuery* group = queries + q;
      for (std::int32_t i = 0; i < kGroupQueries; ++i) {
        limits.threshold[i] = i < taken ? group[i].threshold : 0;
        limits.correction[i] = i < taken ? group[i].correction : 0;
      }
      const auto test = [&](std::size_t b, std::size_t held, int part, const std::int32_t* sums) {
        if (part == 0) limits.set(blocks, b, held);
        const std::size_t rows = static_cast<std::size_t>(part) * 4 * kLanes;
        for (std::int32_t t = 0; t < tiles; ++t) {
          const std::int32_t* own = sums + static_cast<std::size_t>(t) * kTileBlocks * kTileSums + rows;
          const std::int32_t first = t * kTileQueries + part * 4;
          const std::int32_t* limit = limits.limit + first;
          std::uint32_t above = held == 4   ? rough<4>(own, limit)
                                : held == 3 ? rough<3>(own, limit)
                                : held == 2 ? rough<2>(own, limit)
                                            : rough<1>(own, limit);
          above &= taken - first >= 4 ? 15u : taken > first ? (1u << (taken - first)) - 1 : 0;
          for (; above; above &= above - 1) {
            const int i = __builtin_ctz(above);
            aitems::AnnQuery* query = group + first + i;
            for (std::size_t k = 0; k < held; ++k)
              keep_above(blocks, b + k, query,
                         _mm512_sub_epi32(_mm512_load_si512(own + k * kTileSums + static_cast<std::size_t>(i * kLanes)),
                                          _mm512_set1_epi32(query->correction)));
          }
        }
      };
      const auto live = [&](std::size_t b) {
        std::uint32_t any = 0;
        for (std::size_t i = b; i < end && i < b + kTileBlocks; ++i) any |= blocks->live[i];
        return any != 0;
      };
      for (std::size_t b = begin; b < end;) {  // runs of four blocks with a live row
        std::size_t stop = b;
        while (stop < end && live(stop)) stop += kTileBlocks;
        if (stop > b) tile_scan(blocks->codes, b, stop < end ? stop : end, group->codes, dim, tiles, q == 0, test);
        b = stop + kTileBlocks;
      }
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
                             largest,
                             quantize,
                             collect,
                             scan_tiles,
                             scan_signs,
                             cut,
                             enter,
                             leave};
}  // namespace aitems
