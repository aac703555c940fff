// AVX-512 with VNNI: sixteen rows at a time, so that their sums are taken together by transposing.
// GCC 12's AVX-512 headers start from "undefined" registers, which its own warnings take for a mistake (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "simd/ann_graph_kernels.hpp"

namespace {

constexpr int kLanes = 16;

// Lane i of every quarter: a quarter of the sum of argument i.
__m512i quarters(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

__m512i halves(__m512i a, __m512i b) {
  return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

void score(const aitems::AnnRowCodes* table, const aitems::AnnQuery* query, const std::uint32_t* rows, std::int32_t count, float* scores) {
  const std::size_t stride = static_cast<std::size_t>(table->stride);
  for (std::int32_t first = 0; first < count; first += kLanes) {
    const std::int32_t held = count - first < kLanes ? count - first : kLanes;
    const __mmask16 present = static_cast<__mmask16>((1u << held) - 1);
    alignas(64) float scales[kLanes], biases[kLanes];
    __m512i sums[kLanes];
    for (std::int32_t i = 0; i < kLanes; ++i) {
      const std::size_t row = rows[first + (i < held ? i : 0)];
      const std::uint8_t* codes = table->codes + row * stride;
      scales[i] = table->scales[table->levels[row]];
      if (table->biases) biases[i] = table->biases[row];
      sums[i] = _mm512_setzero_si512();
      for (std::size_t d = 0; d < stride; d += 64)
        sums[i] = _mm512_dpbusd_epi32(sums[i], _mm512_loadu_si512(codes + d), _mm512_loadu_si512(query->codes + d));
    }
    const __m512i low = halves(quarters(sums[0], sums[1], sums[2], sums[3]), quarters(sums[4], sums[5], sums[6], sums[7]));
    const __m512i high = halves(quarters(sums[8], sums[9], sums[10], sums[11]), quarters(sums[12], sums[13], sums[14], sums[15]));
    const __m512i sum = _mm512_sub_epi32(halves(low, high), _mm512_set1_epi32(query->correction));
    __m512 out = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_load_ps(scales));
    if (table->biases) out = _mm512_add_ps(out, _mm512_mul_ps(_mm512_load_ps(biases), _mm512_set1_ps(query->bias_factor)));
    _mm512_mask_storeu_ps(scores + first, present, out);
  }
}

}  // namespace

namespace aitems {
extern const AnnGraphKernels kAnnGraph_v4;
const AnnGraphKernels kAnnGraph_v4 = {score};
}  // namespace aitems
