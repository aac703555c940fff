// AVX2: bytes are widened to 16 bits, because maddubs saturates with 8-bit codes.
#include <immintrin.h>

#include "simd/ann_graph_kernels.hpp"

namespace {

void score(const aitems::AnnRowCodes* table, const aitems::AnnQuery* query, const std::uint32_t* rows, std::int32_t count, float* scores) {
  for (std::int32_t i = 0; i < count; ++i) {
    const std::uint8_t* codes = table->codes + static_cast<std::size_t>(rows[i]) * static_cast<std::size_t>(table->stride);
    __m256i even = _mm256_setzero_si256(), odd = even;
    for (std::int32_t d = 0; d < table->stride; d += 32) {
      const auto sixteen = [&](std::int32_t at) __attribute__((always_inline)) {
        return _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + at))),
                                 _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(query->codes + at))));
      };
      even = _mm256_add_epi32(even, sixteen(d));
      odd = _mm256_add_epi32(odd, sixteen(d + 16));
    }
    const __m256i eight = _mm256_add_epi32(even, odd);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    scores[i] = static_cast<float>(_mm_cvtsi128_si32(four) - query->correction) * table->scales[table->levels[rows[i]]];
    if (table->biases) scores[i] += table->biases[rows[i]] * query->bias_factor;
  }
}

}  // namespace

namespace aitems {
extern const AnnGraphKernels kAnnGraph_v3;
const AnnGraphKernels kAnnGraph_v3 = {score};
}  // namespace aitems
