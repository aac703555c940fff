// Text classifier kernels for AVX-512 with VNNI. 6 rows x 32 columns of sums (12 registers) keep both multipliers busy with half
// of the load slots; taller tiles spill with GCC 12. Sums are reduced as soon as a tile is done, so logits never leave registers.
#include "simd/kernels.hpp"
#include "simd/textcnn_avx512.inc"
#include "simd/textcnn_kernels.hpp"

namespace aitems {
extern const TextCnnKernels kTextCnn_v4;
namespace {

constexpr int kRows = 6;
constexpr int kBlockI8 = 192;  // rows that stay in L2 while a weight panel stays in L1
constexpr int kBlockF32 = 96;
constexpr int kDepthF32 = 256;  // 256 x 32 floats: the part of a panel that fits in L1

// --- folded convolutions --------------------------------------------------------------------------------------------
struct F32 {
  using Element = float;
  using Vector = __m512;
  static constexpr int kLanes = 16;
  static inline Vector lowest() { return _mm512_set1_ps(-__builtin_inff()); }
  static inline Vector load(const Element* p) { return _mm512_loadu_ps(p); }
  static inline Vector add(Vector a, const Element* p) { return _mm512_add_ps(a, load(p)); }
  static inline Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  static inline void finish(Vector v, const TextCnnConv& conv, int f, float* out) {
    _mm512_storeu_ps(out + f, _mm512_max_ps(_mm512_add_ps(v, _mm512_loadu_ps(conv.bias + f)), _mm512_setzero_ps()));
  }
};

// Sums of windows are kept in 16 bits: they fit for any width up to 258.
struct I8 {
  using Element = int8_t;
  using Vector = __m512i;
  static constexpr int kLanes = 32;
  static inline Vector lowest() { return _mm512_set1_epi16(-32768); }
  static inline Vector load(const Element* p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static inline Vector add(Vector a, const Element* p) { return _mm512_add_epi16(a, load(p)); }
  static inline Vector larger(Vector a, Vector b) { return _mm512_max_epi16(a, b); }
  static inline void finish(Vector v, const TextCnnConv& conv, int f, float* out) {
    half(_mm512_castsi512_si256(v), conv, f, out);
    half(_mm512_extracti64x4_epi64(v, 1), conv, f + 16, out);
  }
  static inline void half(__m256i v, const TextCnnConv& conv, int f, float* out) {
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(v));
    const __m512 value = _mm512_fmadd_ps(sum, _mm512_loadu_ps(conv.scale + f), _mm512_loadu_ps(conv.bias + f));
    _mm512_storeu_ps(out + f, _mm512_max_ps(value, _mm512_setzero_ps()));
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
      for (int c = 0; c < C; ++c) sum[c] = V::add(sum[c], row + c * V::kLanes);
    }
    for (int c = 0; c < C; ++c) best[c] = V::larger(best[c], sum[c]);
  }
  for (int c = 0; c < C; ++c) V::finish(best[c], conv, f + c * V::kLanes, out);
}

template <class V>
void conv_rows(const TextCnnConv& conv, const int32_t* ids, int length, float* out) {
  if (length == 0) {
    for (int f = 0; f < conv.filters; f += 16) _mm512_storeu_ps(out + f, _mm512_setzero_ps());
    return;
  }
  int f = 0;
  for (; conv.filters - f >= 8 * V::kLanes; f += 8 * V::kLanes) conv_chunk<V, 8>(conv, ids, length, f, out);
  for (; conv.filters - f >= 4 * V::kLanes; f += 4 * V::kLanes) conv_chunk<V, 4>(conv, ids, length, f, out);
  for (; conv.filters - f >= 2 * V::kLanes; f += 2 * V::kLanes) conv_chunk<V, 2>(conv, ids, length, f, out);
  for (; f < conv.filters; f += V::kLanes) conv_chunk<V, 1>(conv, ids, length, f, out);
}

// --- bag of n-grams --------------------------------------------------------------------------------------------------
constexpr int kAhead = 8;  // rows are random: ask for them this many n-grams early

inline float bag_scale(int64_t count) { return 1.f / __builtin_sqrtf(count > 1 ? static_cast<float>(count) : 1.f); }

void bag_f32(const TextCnnBag& bag, const int32_t* ids, int64_t count, float* out) {
  const __m512 scale = _mm512_set1_ps(bag_scale(count));
  for (int c = 0; c < bag.columns; c += 32) {
    const float* table = static_cast<const float*>(bag.table) + c;
    __m512 s0 = _mm512_setzero_ps(), s1 = s0;
    for (int64_t i = 0; i < count; ++i) {
      if (i + kAhead < count) {
        const float* next = table + static_cast<std::size_t>(ids[i + kAhead]) * static_cast<std::size_t>(bag.columns);
        _mm_prefetch(next, _MM_HINT_T0);
        _mm_prefetch(next + 16, _MM_HINT_T0);
      }
      const float* row = table + static_cast<std::size_t>(ids[i]) * static_cast<std::size_t>(bag.columns);
      s0 = _mm512_add_ps(s0, _mm512_loadu_ps(row));
      s1 = _mm512_add_ps(s1, _mm512_loadu_ps(row + 16));
    }
    _mm512_storeu_ps(out + c, _mm512_max_ps(_mm512_fmadd_ps(s0, scale, _mm512_loadu_ps(bag.bias + c)), _mm512_setzero_ps()));
    _mm512_storeu_ps(out + c + 16, _mm512_max_ps(_mm512_fmadd_ps(s1, scale, _mm512_loadu_ps(bag.bias + c + 16)), _mm512_setzero_ps()));
  }
}

// C vectors of 32 columns. 256 codes fit an int16 sum; then it is widened.
template <int C>
inline void bag_chunk(const TextCnnBag& bag, const int32_t* ids, int64_t count, int column, float* out) {
  const int8_t* table = static_cast<const int8_t*>(bag.table) + column;
  const auto row = [&](int64_t i) { return table + static_cast<std::size_t>(ids[i]) * static_cast<std::size_t>(bag.columns); };
  __m512i low[C], high[C];
  for (int c = 0; c < C; ++c) low[c] = high[c] = _mm512_setzero_si512();
  for (int64_t i = 0; i < count;) {
    const int64_t stop = count - i < 256 ? count : i + 256;
    __m512i sum[C];
    for (int c = 0; c < C; ++c) sum[c] = _mm512_setzero_si512();
    for (; i < stop; ++i) {
      if (i + kAhead < count) _mm_prefetch(row(i + kAhead), _MM_HINT_T0);
      for (int c = 0; c < C; ++c)
        sum[c] = _mm512_add_epi16(sum[c], _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row(i) + 32 * c))));
    }
    for (int c = 0; c < C; ++c) {
      low[c] = _mm512_add_epi32(low[c], _mm512_cvtepi16_epi32(_mm512_castsi512_si256(sum[c])));
      high[c] = _mm512_add_epi32(high[c], _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(sum[c], 1)));
    }
  }
  const __m512 scale = _mm512_set1_ps(bag_scale(count));
  for (int c = 0; c < C; ++c)
    for (int half = 0; half < 2; ++half) {
      const int at = column + 32 * c + 16 * half;
      const __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(half ? high[c] : low[c]), scale);
      const __m512 value = _mm512_fmadd_ps(sum, _mm512_loadu_ps(bag.scale + at), _mm512_loadu_ps(bag.bias + at));
      _mm512_storeu_ps(out + at, _mm512_max_ps(value, _mm512_setzero_ps()));
    }
}

void bag_i8(const TextCnnBag& bag, const int32_t* ids, int64_t count, float* out) {
  int c = 0;
  for (; bag.columns - c >= 64; c += 64) bag_chunk<2>(bag, ids, count, c, out);
  if (c < bag.columns) bag_chunk<1>(bag, ids, count, c, out);
}

float quantize(const float* features, int depth, uint8_t* codes) {
  __m512 most = _mm512_setzero_ps();
  for (int k = 0; k < depth; k += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(features + k));
  const float largest = _mm512_reduce_max_ps(most);
  const __m512 scale = _mm512_set1_ps(largest > 0 ? 255.f / largest : 0.f);
  for (int k = 0; k < depth; k += 16)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + k), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(features + k), scale))));
  return largest / 255.f;
}

// --- products --------------------------------------------------------------------------------------------------------
// What is done with the 32 finished logits of a row.
struct ToTop {
  TextCnnTop* tops;
  inline void operator()(int row, int column, __m512 v0, __m512 v1) const { take(tops[row], v0, v1, column); }
};
struct ToMemory {
  float* out;
  std::size_t stride;
  inline void operator()(int row, int column, __m512 v0, __m512 v1) const {
    float* to = out + static_cast<std::size_t>(row) * stride + column;
    _mm512_storeu_ps(to, v0);
    _mm512_storeu_ps(to + 16, v1);
  }
};

// s += four u8 x s8 products a lane. As an instruction and not as the intrinsic: GCC 12 copies every sum to another register and
// back around the intrinsic (24 moves for 12 products, a third of the speed).
inline __m512i multiply_add(__m512i s, __m512i x, __m512i w) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(x), "v"(w));
  return s;
}

template <int M, class Sink>
inline void tile_i8(const TextCnnProduct& p, int first, int panel, const Sink& sink) {
  const uint8_t* x = static_cast<const uint8_t*>(p.rows) + static_cast<std::size_t>(first) * p.row_stride;
  const int8_t* w = static_cast<const int8_t*>(p.weights) + static_cast<std::size_t>(panel) * kTextCnnPanel * static_cast<std::size_t>(p.depth);
  __m512i s[M][2];
  for (int i = 0; i < M; ++i) s[i][0] = s[i][1] = _mm512_setzero_si512();
  for (int k = 0; k < p.depth; k += 64, w += 2048, x += 64)
    for (int g = 0; g < 16; ++g) {
      const __m512i w0 = _mm512_loadu_si512(w + g * 64), w1 = _mm512_loadu_si512(w + 1024 + g * 64);
#pragma GCC unroll 6
      for (int i = 0; i < M; ++i) {
        int32_t four;
        __builtin_memcpy(&four, x + static_cast<std::size_t>(i) * p.row_stride + g * 4, 4);
        const __m512i v = _mm512_set1_epi32(four);
        s[i][0] = multiply_add(s[i][0], v, w0);
        s[i][1] = multiply_add(s[i][1], v, w1);
      }
    }
  const int column = panel * kTextCnnPanel;
  const float *scale = p.column_scale + column, *bias = p.bias + column;
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i)
    sink(first + i, column, dequantized(s[i][0], p.row_scale[first + i], scale, bias), dequantized(s[i][1], p.row_scale[first + i], scale + 16, bias + 16));
}

template <class Sink>
void run_i8(const TextCnnProduct& p, const Sink& sink) {
  for (int block = 0; block < p.count; block += kBlockI8) {
    const int end = p.count - block < kBlockI8 ? p.count : block + kBlockI8;
    for (int panel = 0; panel < p.panels; ++panel) {
      int m = block;
      for (; end - m >= kRows; m += kRows) tile_i8<kRows>(p, m, panel, sink);
      switch (end - m) {
        case 5: tile_i8<5>(p, m, panel, sink); break;
        case 4: tile_i8<4>(p, m, panel, sink); break;
        case 3: tile_i8<3>(p, m, panel, sink); break;
        case 2: tile_i8<2>(p, m, panel, sink); break;
        case 1: tile_i8<1>(p, m, panel, sink); break;
        default: break;
      }
    }
  }
}

// One tile over depths [k0, k1): continues the sums in `partial` (rows of 32) unless k0 is 0, and leaves them there unless k1 is the end.
template <int M, class Sink>
inline void tile_f32(const TextCnnProduct& p, int first, int panel, int k0, int k1, float* partial, const Sink& sink) {
  const float* x = static_cast<const float*>(p.rows) + static_cast<std::size_t>(first) * p.row_stride;
  const float* w = static_cast<const float*>(p.weights) + (static_cast<std::size_t>(panel) * static_cast<std::size_t>(p.depth) + static_cast<std::size_t>(k0)) * kTextCnnPanel;
  __m512 s[M][2];
  for (int i = 0; i < M; ++i) {
    s[i][0] = k0 ? _mm512_load_ps(partial + i * kTextCnnPanel) : _mm512_setzero_ps();
    s[i][1] = k0 ? _mm512_load_ps(partial + i * kTextCnnPanel + 16) : _mm512_setzero_ps();
  }
  for (int k = k0; k < k1; ++k, w += kTextCnnPanel) {
    const __m512 w0 = _mm512_loadu_ps(w), w1 = _mm512_loadu_ps(w + 16);
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) {
      const __m512 v = _mm512_set1_ps(x[static_cast<std::size_t>(i) * p.row_stride + static_cast<std::size_t>(k)]);
      s[i][0] = _mm512_fmadd_ps(v, w0, s[i][0]);
      s[i][1] = _mm512_fmadd_ps(v, w1, s[i][1]);
    }
  }
  const int column = panel * kTextCnnPanel;
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) {
    if (k1 < p.depth) {
      _mm512_store_ps(partial + i * kTextCnnPanel, s[i][0]);
      _mm512_store_ps(partial + i * kTextCnnPanel + 16, s[i][1]);
    } else {
      sink(first + i, column, _mm512_add_ps(s[i][0], _mm512_loadu_ps(p.bias + column)), _mm512_add_ps(s[i][1], _mm512_loadu_ps(p.bias + column + 16)));
    }
  }
}

template <class Sink>
void run_f32(const TextCnnProduct& p, const Sink& sink) {
  alignas(64) float partial[kBlockF32 * kTextCnnPanel];
  for (int block = 0; block < p.count; block += kBlockF32) {
    const int end = p.count - block < kBlockF32 ? p.count : block + kBlockF32;
    for (int panel = 0; panel < p.panels; ++panel)
      for (int k0 = 0; k0 < p.depth; k0 += kDepthF32) {
        const int k1 = p.depth - k0 < kDepthF32 ? p.depth : k0 + kDepthF32;
        int m = block;
        const auto at = [&] { return partial + (m - block) * kTextCnnPanel; };
        for (; end - m >= kRows; m += kRows) tile_f32<kRows>(p, m, panel, k0, k1, at(), sink);
        switch (end - m) {
          case 5: tile_f32<5>(p, m, panel, k0, k1, at(), sink); break;
          case 4: tile_f32<4>(p, m, panel, k0, k1, at(), sink); break;
          case 3: tile_f32<3>(p, m, panel, k0, k1, at(), sink); break;
          case 2: tile_f32<2>(p, m, panel, k0, k1, at(), sink); break;
          case 1: tile_f32<1>(p, m, panel, k0, k1, at(), sink); break;
          default: break;
        }
      }
  }
}

void product_f32(const TextCnnProduct& p, float* out, std::size_t stride) { run_f32(p, ToMemory{out, stride}); }
void product_i8(const TextCnnProduct& p, float* out, std::size_t stride) { run_i8(p, ToMemory{out, stride}); }
void top_f32(const TextCnnProduct& p, TextCnnTop* tops) { run_f32(p, ToTop{tops}); }
void top_i8(const TextCnnProduct& p, TextCnnTop* tops) { run_i8(p, ToTop{tops}); }

}  // namespace

const TextCnnKernels kTextCnn_v4 = {conv_rows<F32>, conv_rows<I8>, bag_f32, bag_i8, quantize, product_f32, product_i8, top_f32, top_i8};
}  // namespace aitems
