// AVX2 + F16C. The byte product of AVX2 (maddubs) saturates with 8-bit codes, so bytes are widened to 16 bits first: exact.
#include <immintrin.h>

#include "simd/ann_kernels.hpp"

namespace {

constexpr int kLanes = 16;

float sum_of(__m256 low, __m256 high) {
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

float dot_one(const float* query, const float* row, std::int32_t stride) {
  __m256 low = _mm256_setzero_ps(), high = low;
  for (std::int32_t d = 0; d < stride; d += kLanes) {
    low = _mm256_add_ps(low, _mm256_mul_ps(_mm256_loadu_ps(query + d), _mm256_loadu_ps(row + d)));
    high = _mm256_add_ps(high, _mm256_mul_ps(_mm256_loadu_ps(query + d + 8), _mm256_loadu_ps(row + d + 8)));
  }
  return sum_of(low, high);
}

float distance_one(const float* query, const float* row, std::int32_t stride) {
  __m256 low = _mm256_setzero_ps(), high = low;
  for (std::int32_t d = 0; d < stride; d += kLanes) {
    const __m256 a = _mm256_sub_ps(_mm256_loadu_ps(query + d), _mm256_loadu_ps(row + d));
    const __m256 b = _mm256_sub_ps(_mm256_loadu_ps(query + d + 8), _mm256_loadu_ps(row + d + 8));
    low = _mm256_add_ps(low, _mm256_mul_ps(a, a));
    high = _mm256_add_ps(high, _mm256_mul_ps(b, b));
  }
  return -sum_of(low, high);
}

__m256 widen(const std::uint16_t* half) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(half))); }

float dot_half_one(const float* query, const std::uint16_t* row, std::int32_t stride) {
  __m256 low = _mm256_setzero_ps(), high = low;
  for (std::int32_t d = 0; d < stride; d += kLanes) {
    low = _mm256_add_ps(low, _mm256_mul_ps(_mm256_loadu_ps(query + d), widen(row + d)));
    high = _mm256_add_ps(high, _mm256_mul_ps(_mm256_loadu_ps(query + d + 8), widen(row + d + 8)));
  }
  return sum_of(low, high);
}

float distance_half_one(const float* query, const std::uint16_t* row, std::int32_t stride) {
  __m256 low = _mm256_setzero_ps(), high = low;
  for (std::int32_t d = 0; d < stride; d += kLanes) {
    const __m256 a = _mm256_sub_ps(_mm256_loadu_ps(query + d), widen(row + d));
    const __m256 b = _mm256_sub_ps(_mm256_loadu_ps(query + d + 8), widen(row + d + 8));
    low = _mm256_add_ps(low, _mm256_mul_ps(a, a));
    high = _mm256_add_ps(high, _mm256_mul_ps(b, b));
  }
  return -sum_of(low, high);
}

}  // namespace

#include "simd/ann_quantize.inc"
#include "simd/ann_rows.inc"

namespace {

void append(aitems::AnnQuery* query, std::uint32_t mask, const float* scores, std::uint32_t first_row) {
  for (; mask; mask &= mask - 1) {
    const std::uint32_t lane = static_cast<std::uint32_t>(__builtin_ctz(mask));
    query->scores[query->count] = scores[lane];
    query->rows[query->count++] = first_row + lane;
  }
}

std::uint32_t above(const float* scores, __m256 threshold) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(scores), threshold, _CMP_GT_OQ)));
}

void collect(const float* scores, std::size_t count, std::uint32_t first_row, const std::uint16_t* live, aitems::AnnQuery* query) {
  const __m256 threshold = _mm256_set1_ps(query->threshold);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const std::uint32_t mask = (above(scores + i, threshold) | above(scores + i + 8, threshold) << 8) & live[i / kLanes];
    append(query, mask, scores + i, first_row + static_cast<std::uint32_t>(i));
  }
  std::uint32_t mask = 0;
  for (std::size_t j = i; j < count; ++j) mask |= static_cast<std::uint32_t>(scores[j] > query->threshold) << (j - i);
  if (mask) append(query, mask & live[i / kLanes], scores + i, first_row + static_cast<std::uint32_t>(i));
}

// One block against Q queries: even and odd dimensions as 16-bit pairs, 8 rows a register.
template <int Q>
void scan_block(const aitems::AnnBlocks* blocks, std::size_t b, aitems::AnnQuery* queries) {
  const std::int32_t lines = blocks->code_dim / 4;
  const std::uint8_t* codes = blocks->codes + b * static_cast<std::size_t>(blocks->code_dim) * kLanes;
  const __m256i low_bytes = _mm256_set1_epi16(0xff);
  __m256i first[Q], second[Q];
  for (int q = 0; q < Q; ++q) first[q] = second[q] = _mm256_set1_epi32(-queries[q].correction);
  for (std::int32_t g = 0; g < lines; ++g) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + g * 64));
    const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + g * 64 + 32));
    const __m256i a_even = _mm256_and_si256(a, low_bytes), a_odd = _mm256_srli_epi16(a, 8);
    const __m256i c_even = _mm256_and_si256(c, low_bytes), c_odd = _mm256_srli_epi16(c, 8);
    for (int q = 0; q < Q; ++q) {
      std::int32_t four;
      __builtin_memcpy(&four, queries[q].codes + g * 4, 4);
      const __m256i v = _mm256_set1_epi32(four);
      const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8), odd = _mm256_srai_epi16(v, 8);
      first[q] = _mm256_add_epi32(first[q], _mm256_add_epi32(_mm256_madd_epi16(a_even, even), _mm256_madd_epi16(a_odd, odd)));
      second[q] = _mm256_add_epi32(second[q], _mm256_add_epi32(_mm256_madd_epi16(c_even, even), _mm256_madd_epi16(c_odd, odd)));
    }
  }
  const float* scales = blocks->scales + b * kLanes;
  for (int q = 0; q < Q; ++q) {
    __m256 s0 = _mm256_mul_ps(_mm256_cvtepi32_ps(first[q]), _mm256_loadu_ps(scales));
    __m256 s1 = _mm256_mul_ps(_mm256_cvtepi32_ps(second[q]), _mm256_loadu_ps(scales + 8));
    if (blocks->biases) {
      const __m256 factor = _mm256_set1_ps(queries[q].bias_factor);
      s0 = _mm256_add_ps(s0, _mm256_mul_ps(_mm256_loadu_ps(blocks->biases + b * kLanes), factor));
      s1 = _mm256_add_ps(s1, _mm256_mul_ps(_mm256_loadu_ps(blocks->biases + b * kLanes + 8), factor));
    }
    const __m256 threshold = _mm256_set1_ps(queries[q].threshold);
    std::uint32_t mask = static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(s0, threshold, _CMP_GT_OQ))) |
                         static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(s1, threshold, _CMP_GT_OQ))) << 8;
    mask &= blocks->live[b];
    if (!mask) continue;
    alignas(32) float scores[kLanes];
    _mm256_store_ps(scores, s0);
    _mm256_store_ps(scores + 8, s1);
    append(&queries[q], mask, scores, static_cast<std::uint32_t>(b * kLanes));
  }
}

void scan(const aitems::AnnBlocks* blocks, std::size_t begin, std::size_t end, aitems::AnnQuery* queries, std::int32_t num_queries) {
  for (std::size_t b = begin; b < end; ++b) {
    if (!blocks->live[b]) continue;
    std::int32_t q = 0;
    for (; q + 3 <= num_queries; q += 3) scan_block<3>(blocks, b, queries + q);
    for (; q < num_queries; ++q) scan_block<1>(blocks, b, queries + q);
  }
}

// A line is two registers, of two lanes of 16 rows each; see ann_v4.inc.
void scan_signs(const aitems::AnnSigns* blocks, std::size_t begin, std::size_t end, const aitems::AnnSignQuery* signs, aitems::AnnQuery* query) {
  const __m256i low_half = _mm256_set1_epi8(15);
  const auto load = [](const std::uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); };
  const __m256 step = _mm256_set1_ps(signs->step), offset = _mm256_set1_ps(signs->offset), base = _mm256_set1_ps(signs->base);
  const std::size_t bytes = static_cast<std::size_t>(blocks->lines) * 64;
  for (std::size_t b = begin; b < end; ++b) {
    if (!blocks->live[b]) continue;
    const std::uint8_t* codes = blocks->codes + b * bytes;
    __m256i both = _mm256_setzero_si256(), odd = both;
    for (std::size_t at = 0; at < bytes; at += 32) {
      const __m256i code = load(codes + at);
      const std::uint8_t* table = signs->tables + at / 64 * 128 + at % 64;
      const __m256i sum = _mm256_add_epi8(_mm256_shuffle_epi8(load(table), _mm256_and_si256(code, low_half)),
                                          _mm256_shuffle_epi8(load(table + 64), _mm256_and_si256(_mm256_srli_epi16(code, 4), low_half)));
      both = _mm256_add_epi16(both, sum);
      odd = _mm256_add_epi16(odd, _mm256_srli_epi16(sum, 8));
    }
    const __m256i even = _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8));
    const __m128i evens = _mm_add_epi16(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1));
    const __m128i odds = _mm_add_epi16(_mm256_castsi256_si128(odd), _mm256_extracti128_si256(odd, 1));
    alignas(32) float scores[kLanes];
    std::uint32_t mask = 0;
    for (int half = 0; half < 2; ++half) {
      const __m256i sums = _mm256_cvtepu16_epi32(half ? _mm_unpackhi_epi16(evens, odds) : _mm_unpacklo_epi16(evens, odds));
      const std::size_t row = b * kLanes + static_cast<std::size_t>(half) * 8;
      __m256 score = _mm256_sub_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), step), offset);
      score = _mm256_add_ps(_mm256_mul_ps(score, _mm256_loadu_ps(blocks->factors + row)), base);
      if (blocks->biases) score = _mm256_add_ps(score, _mm256_loadu_ps(blocks->biases + row));
      _mm256_store_ps(scores + half * 8, score);
      mask |= above(scores + half * 8, _mm256_set1_ps(query->threshold)) << half * 8;
    }
    if (mask & blocks->live[b]) append(query, mask & blocks->live[b], scores, static_cast<std::uint32_t>(b * kLanes));
  }
}

void cut(aitems::AnnQuery* query, std::int32_t keep) {
  const std::int32_t count = query->count;
  if (count <= keep) return;
  float low = query->scores[0], high = low, good = query->threshold;
  for (std::int32_t i = 1; i < count; ++i) {
    low = query->scores[i] < low ? query->scores[i] : low;
    high = query->scores[i] > high ? query->scores[i] : high;
  }
  for (int round = 0; round < 10; ++round) {
    const float middle = .5f * (low + high);
    const __m256 limit = _mm256_set1_ps(middle);
    std::int32_t larger = 0, i = 0;
    for (; i + 8 <= count; i += 8) larger += __builtin_popcount(above(query->scores + i, limit));
    for (; i < count; ++i) larger += query->scores[i] > middle;
    if (larger >= keep) {
      low = good = middle;
    } else {
      high = middle;
    }
  }
  query->threshold = good;
  query->count = 0;
  for (std::int32_t i = 0; i < count; ++i) {  // no branch: a candidate that is dropped is overwritten by the next
    const float score = query->scores[i];
    query->scores[query->count] = score;
    query->rows[query->count] = query->rows[i];
    query->count += score > good;
  }
}

}  // namespace

namespace aitems {
extern const AnnKernels kAnn_v3;
const AnnKernels kAnn_v3 = {over_rows<float, dot_one>,
                            over_rows<float, distance_one>,
                            over_rows<std::uint16_t, dot_half_one>,
                            over_rows<std::uint16_t, distance_half_one>,
                            largest,
                            quantize,
                            collect,
                            scan,
                            scan_signs,
                            cut,
                            nothing,
                            nothing};
}  // namespace aitems
