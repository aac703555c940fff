// Text classifier kernels for AVX2 and FMA. `vpmaddubsw` adds two products in 16 bits and saturates: with weights of -127..127 the
// codes of the features must stay below 128, so this level quantises features to 7 bits. Otherwise it works as textcnn_v4.cpp does.
#include <immintrin.h>

#include "simd/kernels.hpp"
#include "simd/textcnn_kernels.hpp"
#include "simd/textcnn_top.inc"

namespace aitems {
extern const TextCnnKernels kTextCnn_v3;
namespace {

constexpr int kBlock = 96;
constexpr int kDepthF32 = 192;  // 192 x 32 floats: the part of a panel that fits in L1

inline __m256 positive(__m256 v) { return _mm256_max_ps(v, _mm256_setzero_ps()); }
inline __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

// --- folded convolutions --------------------------------------------------------------------------------------------
struct F32 {
  using Element = float;
  using Vector = __m256;
  static constexpr int kLanes = 8;
  static inline Vector lowest() { return _mm256_set1_ps(-__builtin_inff()); }
  static inline Vector load(const Element* p) { return _mm256_loadu_ps(p); }
  static inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static inline Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static inline void finish(Vector v, const TextCnnConv& conv, int f, float* out) {
    _mm256_storeu_ps(out + f, positive(_mm256_add_ps(v, _mm256_loadu_ps(conv.bias + f))));
  }
};

// Sums of windows are kept in 16 bits: they fit for any width up to 258.
struct I8 {
  using Element = int8_t;
  using Vector = __m256i;
  static constexpr int kLanes = 16;
  static inline Vector lowest() { return _mm256_set1_epi16(-32768); }
  static inline Vector load(const Element* p) { return _mm256_cvtepi8_epi16(load16(p)); }
  static inline Vector add(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
  static inline Vector larger(Vector a, Vector b) { return _mm256_max_epi16(a, b); }
  static inline void finish(Vector v, const TextCnnConv& conv, int f, float* out) {
    half(_mm256_castsi256_si128(v), conv, f, out);
    half(_mm256_extracti128_si256(v, 1), conv, f + 8, out);
  }
  static inline void half(__m128i v, const TextCnnConv& conv, int f, float* out) {
    const __m256 sum = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(v));
    _mm256_storeu_ps(out + f, positive(_mm256_fmadd_ps(sum, _mm256_loadu_ps(conv.scale + f), _mm256_loadu_ps(conv.bias + f))));
  }
};

// C vectors of filters from filter f on.
template <class V, int C>
inline void conv_chunk(const TextCnnConv& conv, const int32_t* ids, int length, int f, float* out) {
  const auto* table = static_cast<const typename V::Element*>(conv.table) + f;
  typename V::Vector best[C];
  for (int c = 0; c < C; ++c) best[c] = V::lowest();
  for (int t = 0; t < length; ++t) {
    const int taps = length - t < conv.width ? length - t : conv.width;
    const auto* row = table + static_cast<std::size_t>(ids[t]) * conv.token_stride;
    typename V::Vector sum[C];
    for (int c = 0; c < C; ++c) sum[c] = V::load(row + c * V::kLanes);
    for (int j = 1; j < taps; ++j) {
      row = table + static_cast<std::size_t>(ids[t + j]) * conv.token_stride + static_cast<std::size_t>(j) * static_cast<std::size_t>(conv.filters);
      for (int c = 0; c < C; ++c) sum[c] = V::add(sum[c], V::load(row + c * V::kLanes));
    }
    for (int c = 0; c < C; ++c) best[c] = V::larger(best[c], sum[c]);
  }
  for (int c = 0; c < C; ++c) V::finish(best[c], conv, f + c * V::kLanes, out);
}

template <class V>
void conv_rows(const TextCnnConv& conv, const int32_t* ids, int length, float* out) {
  if (length == 0) {
    for (int f = 0; f < conv.filters; f += 8) _mm256_storeu_ps(out + f, _mm256_setzero_ps());
    return;
  }
  int f = 0;
  for (; conv.filters - f >= 4 * V::kLanes; f += 4 * V::kLanes) conv_chunk<V, 4>(conv, ids, length, f, out);
  for (; f < conv.filters; f += 2 * V::kLanes) conv_chunk<V, 2>(conv, ids, length, f, out);
}

// --- bag of n-grams --------------------------------------------------------------------------------------------------
constexpr int kAhead = 8;  // rows are random: ask for them this many n-grams early

inline float bag_scale(int64_t count) { return 1.f / __builtin_sqrtf(count > 1 ? static_cast<float>(count) : 1.f); }

void bag_f32(const TextCnnBag& bag, const int32_t* ids, int64_t count, float* out) {
  const __m256 scale = _mm256_set1_ps(bag_scale(count));
  for (int column = 0; column < bag.columns; column += 32) {
    const float* table = static_cast<const float*>(bag.table) + column;
    const auto row = [&](int64_t i) { return table + static_cast<std::size_t>(ids[i]) * static_cast<std::size_t>(bag.columns); };
    __m256 sum[4];
    for (int c = 0; c < 4; ++c) sum[c] = _mm256_setzero_ps();
    for (int64_t i = 0; i < count; ++i) {
      if (i + kAhead < count) {
        _mm_prefetch(row(i + kAhead), _MM_HINT_T0);
        _mm_prefetch(row(i + kAhead) + 16, _MM_HINT_T0);
      }
      for (int c = 0; c < 4; ++c) sum[c] = _mm256_add_ps(sum[c], _mm256_loadu_ps(row(i) + 8 * c));
    }
    for (int c = 0; c < 4; ++c)
      _mm256_storeu_ps(out + column + 8 * c, positive(_mm256_fmadd_ps(sum[c], scale, _mm256_loadu_ps(bag.bias + column + 8 * c))));
  }
}

// 256 codes fit an int16 sum; then it is widened.
void bag_i8(const TextCnnBag& bag, const int32_t* ids, int64_t count, float* out) {
  const __m256 scale = _mm256_set1_ps(bag_scale(count));
  for (int column = 0; column < bag.columns; column += 32) {
    const int8_t* table = static_cast<const int8_t*>(bag.table) + column;
    const auto row = [&](int64_t i) { return table + static_cast<std::size_t>(ids[i]) * static_cast<std::size_t>(bag.columns); };
    __m256i total[4];
    for (int c = 0; c < 4; ++c) total[c] = _mm256_setzero_si256();
    for (int64_t i = 0; i < count;) {
      const int64_t stop = count - i < 256 ? count : i + 256;
      __m256i low = _mm256_setzero_si256(), high = low;
      for (; i < stop; ++i) {
        if (i + kAhead < count) _mm_prefetch(row(i + kAhead), _MM_HINT_T0);
        low = _mm256_add_epi16(low, _mm256_cvtepi8_epi16(load16(row(i))));
        high = _mm256_add_epi16(high, _mm256_cvtepi8_epi16(load16(row(i) + 16)));
      }
      total[0] = _mm256_add_epi32(total[0], _mm256_cvtepi16_epi32(_mm256_castsi256_si128(low)));
      total[1] = _mm256_add_epi32(total[1], _mm256_cvtepi16_epi32(_mm256_extracti128_si256(low, 1)));
      total[2] = _mm256_add_epi32(total[2], _mm256_cvtepi16_epi32(_mm256_castsi256_si128(high)));
      total[3] = _mm256_add_epi32(total[3], _mm256_cvtepi16_epi32(_mm256_extracti128_si256(high, 1)));
    }
    for (int c = 0; c < 4; ++c) {
      const int at = column + 8 * c;
      const __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(total[c]), scale);
      _mm256_storeu_ps(out + at, positive(_mm256_fmadd_ps(sum, _mm256_loadu_ps(bag.scale + at), _mm256_loadu_ps(bag.bias + at))));
    }
  }
}

float quantize(const float* features, int depth, uint8_t* codes) {
  __m256 most = _mm256_setzero_ps();
  for (int k = 0; k < depth; k += 8) most = _mm256_max_ps(most, _mm256_loadu_ps(features + k));
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, most);
  float largest = 0;
  for (int i = 0; i < 8; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  const __m256 scale = _mm256_set1_ps(largest > 0 ? 127.f / largest : 0.f);
  const auto eight = [&](int k) { return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(features + k), scale)); };
  for (int k = 0; k < depth; k += 32) {
    const __m256i a = _mm256_packs_epi32(eight(k), eight(k + 8)), b = _mm256_packs_epi32(eight(k + 16), eight(k + 24));
    // packs work within halves: the last step puts groups of four back in order
    const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + k), packed);
  }
  return largest / 127.f;
}

// --- products --------------------------------------------------------------------------------------------------------
// 2^x for x <= 24; inputs below -126 count as -126.
inline __m256 exp2_of(__m256 x) {
  x = _mm256_max_ps(x, _mm256_set1_ps(-126.f));
  const __m256 n = _mm256_floor_ps(x), r = _mm256_sub_ps(x, n);
  __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(kExp2[5]), r, _mm256_set1_ps(kExp2[4]));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp2[3]));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp2[2]));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp2[1]));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp2[0]));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

// Some of 32 logits exceed the threshold: rare (about k * ln(classes / k) logits of a row do).
__attribute__((noinline)) void enter(TextCnnTop& top, const __m256* logits, uint32_t candidates, int column) {
  alignas(32) float values[kTextCnnPanel];
  for (int c = 0; c < 4; ++c) _mm256_store_ps(values + 8 * c, logits[c]);
  float largest = values[0];
  for (int i = 1; i < kTextCnnPanel; ++i) largest = values[i] > largest ? values[i] : largest;
  if (top.found == 0) {
    top.reference = largest;
  } else if (largest > top.reference + kRebase) {
    top_rebase(top, largest, _mm256_cvtss_f32(exp2_of(_mm256_set1_ps((top.reference - largest) * kLog2E))));
  }
  for (; candidates; candidates &= candidates - 1) {
    const int lane = __builtin_ctz(candidates);
    if (values[lane] > top.threshold) top_insert(top, values[lane], column + lane);
  }
}

struct ToTop {
  TextCnnTop* tops;
  inline void operator()(int row, int column, const __m256* logits) const {
    TextCnnTop& top = tops[row];
    const __m256 threshold = _mm256_set1_ps(top.threshold);
    uint32_t candidates = 0;
    for (int c = 0; c < 4; ++c)
      candidates |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(logits[c], threshold, _CMP_GT_OQ))) << (8 * c);
    if (__builtin_expect(candidates != 0, 0)) enter(top, logits, candidates, column);
    const __m256 reference = _mm256_set1_ps(top.reference), scale = _mm256_set1_ps(kLog2E);
    const auto term = [&](__m256 logit) { return exp2_of(_mm256_mul_ps(_mm256_sub_ps(logit, reference), scale)); };
    for (int h = 0; h < 2; ++h) {
      _mm256_store_ps(top.sums + 8 * h, _mm256_add_ps(_mm256_load_ps(top.sums + 8 * h), _mm256_add_ps(term(logits[h]), term(logits[2 + h]))));
    }
  }
};
struct ToMemory {
  float* out;
  std::size_t stride;
  inline void operator()(int row, int column, const __m256* logits) const {
    float* to = out + static_cast<std::size_t>(row) * stride + column;
    for (int c = 0; c < 4; ++c) _mm256_storeu_ps(to + 8 * c, logits[c]);
  }
};

template <int M, class Sink>
inline void tile_i8(const TextCnnProduct& p, int first, int panel, const Sink& sink) {
  const uint8_t* x = static_cast<const uint8_t*>(p.rows) + static_cast<std::size_t>(first) * p.row_stride;
  const int8_t* w = static_cast<const int8_t*>(p.weights) + static_cast<std::size_t>(panel) * kTextCnnPanel * static_cast<std::size_t>(p.depth);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i s[M][4];
  for (int i = 0; i < M; ++i)
    for (int c = 0; c < 4; ++c) s[i][c] = _mm256_setzero_si256();
  for (int k = 0; k < p.depth; k += 64, w += 2048, x += 64)
    for (int g = 0; g < 16; ++g) {
      const __m256i weights[4] = {load32(w + g * 64), load32(w + g * 64 + 32), load32(w + 1024 + g * 64), load32(w + 1024 + g * 64 + 32)};
      for (int i = 0; i < M; ++i) {
        int32_t four;
        __builtin_memcpy(&four, x + static_cast<std::size_t>(i) * p.row_stride + g * 4, 4);
        const __m256i v = _mm256_set1_epi32(four);
        for (int c = 0; c < 4; ++c) s[i][c] = _mm256_add_epi32(s[i][c], _mm256_madd_epi16(_mm256_maddubs_epi16(v, weights[c]), ones));
      }
    }
  const int column = panel * kTextCnnPanel;
  for (int i = 0; i < M; ++i) {
    const __m256 row_scale = _mm256_set1_ps(p.row_scale[first + i]);
    __m256 logits[4];
    for (int c = 0; c < 4; ++c)
      logits[c] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(s[i][c]), row_scale), _mm256_loadu_ps(p.column_scale + column + 8 * c),
                                  _mm256_loadu_ps(p.bias + column + 8 * c));
    sink(first + i, column, logits);
  }
}

template <class Sink>
void run_i8(const TextCnnProduct& p, const Sink& sink) {
  for (int block = 0; block < p.count; block += kBlock) {
    const int end = p.count - block < kBlock ? p.count : block + kBlock;
    for (int panel = 0; panel < p.panels; ++panel) {
      int m = block;
      for (; end - m >= 2; m += 2) tile_i8<2>(p, m, panel, sink);
      if (m < end) tile_i8<1>(p, m, panel, sink);
    }
  }
}

// One tile over depths [k0, k1): continues the sums in `partial` (rows of 32) unless k0 is 0, and leaves them there unless k1 is the end.
template <int M, class Sink>
inline void tile_f32(const TextCnnProduct& p, int first, int panel, int k0, int k1, float* partial, const Sink& sink) {
  const float* x = static_cast<const float*>(p.rows) + static_cast<std::size_t>(first) * p.row_stride;
  const float* w = static_cast<const float*>(p.weights) + (static_cast<std::size_t>(panel) * static_cast<std::size_t>(p.depth) + static_cast<std::size_t>(k0)) * kTextCnnPanel;
  __m256 s[M][4];
  for (int i = 0; i < M; ++i)
    for (int c = 0; c < 4; ++c) s[i][c] = k0 ? _mm256_load_ps(partial + i * kTextCnnPanel + 8 * c) : _mm256_setzero_ps();
  for (int k = k0; k < k1; ++k, w += kTextCnnPanel) {
    __m256 v[M];
    for (int i = 0; i < M; ++i) v[i] = _mm256_set1_ps(x[static_cast<std::size_t>(i) * p.row_stride + static_cast<std::size_t>(k)]);
    for (int c = 0; c < 4; ++c) {
      const __m256 weights = _mm256_loadu_ps(w + 8 * c);
      for (int i = 0; i < M; ++i) s[i][c] = _mm256_fmadd_ps(v[i], weights, s[i][c]);
    }
  }
  const int column = panel * kTextCnnPanel;
  for (int i = 0; i < M; ++i) {
    if (k1 < p.depth) {
      for (int c = 0; c < 4; ++c) _mm256_store_ps(partial + i * kTextCnnPanel + 8 * c, s[i][c]);
      continue;
    }
    for (int c = 0; c < 4; ++c) s[i][c] = _mm256_add_ps(s[i][c], _mm256_loadu_ps(p.bias + column + 8 * c));
    sink(first + i, column, s[i]);
  }
}

template <class Sink>
void run_f32(const TextCnnProduct& p, const Sink& sink) {
  alignas(64) float partial[kBlock * kTextCnnPanel];
  for (int block = 0; block < p.count; block += kBlock) {
    const int end = p.count - block < kBlock ? p.count : block + kBlock;
    for (int panel = 0; panel < p.panels; ++panel)
      for (int k0 = 0; k0 < p.depth; k0 += kDepthF32) {
        const int k1 = p.depth - k0 < kDepthF32 ? p.depth : k0 + kDepthF32;
        int m = block;
        const auto at = [&] { return partial + (m - block) * kTextCnnPanel; };
        for (; end - m >= 3; m += 3) tile_f32<3>(p, m, panel, k0, k1, at(), sink);
        if (end - m == 2) tile_f32<2>(p, m, panel, k0, k1, at(), sink);
        if (end - m == 1) tile_f32<1>(p, m, panel, k0, k1, at(), sink);
      }
  }
}

void product_f32(const TextCnnProduct& p, float* out, std::size_t stride) { run_f32(p, ToMemory{out, stride}); }
void product_i8(const TextCnnProduct& p, float* out, std::size_t stride) { run_i8(p, ToMemory{out, stride}); }
void top_f32(const TextCnnProduct& p, TextCnnTop* tops) { run_f32(p, ToTop{tops}); }
void top_i8(const TextCnnProduct& p, TextCnnTop* tops) { run_i8(p, ToTop{tops}); }

}  // namespace

const TextCnnKernels kTextCnn_v3 = {conv_rows<F32>, conv_rows<I8>, bag_f32, bag_i8, quantize, product_f32, product_i8, top_f32, top_i8};
}  // namespace aitems
