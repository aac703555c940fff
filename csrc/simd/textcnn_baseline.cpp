// Text classifier kernels in portable C++ (GCC vector extensions of 16 bytes for the float ones: SSE and NEON alike). The meaning of
// every kernel is defined here; the other levels only do the same faster.
#include "simd/kernels.hpp"
#include "simd/textcnn_kernels.hpp"
#include "simd/textcnn_top.inc"

namespace aitems {
extern const TextCnnKernels kTextCnn_baseline;
namespace {

typedef float Float4 __attribute__((vector_size(16), aligned(4), may_alias));

Float4 load(const float* p) { return *reinterpret_cast<const Float4*>(p); }
void store(float* p, Float4 v) { *reinterpret_cast<Float4*>(p) = v; }
float positive(float v) { return v > 0.f ? v : 0.f; }

// --- folded convolutions: `Sum` holds the sum of a window without loss ------------------------------------------------
template <class Element, class Sum>
void conv_rows(const TextCnnConv& conv, const int32_t* ids, int length, float* out) {
  constexpr int kChunk = 32;
  const Element* table = static_cast<const Element*>(conv.table);
  for (int f = 0; f < conv.filters; f += kChunk) {
    Sum best[kChunk] = {};
    for (int t = 0; t < length; ++t) {
      const int taps = length - t < conv.width ? length - t : conv.width;
      Sum sum[kChunk] = {};
      for (int j = 0; j < taps; ++j) {
        const Element* row = table + static_cast<std::size_t>(ids[t + j]) * conv.token_stride + static_cast<std::size_t>(j) * static_cast<std::size_t>(conv.filters) + f;
        for (int c = 0; c < kChunk; ++c) sum[c] = static_cast<Sum>(sum[c] + row[c]);
      }
      for (int c = 0; c < kChunk; ++c) best[c] = t == 0 || sum[c] > best[c] ? sum[c] : best[c];
    }
    for (int c = 0; c < kChunk; ++c) {
      const float scale = conv.scale ? conv.scale[f + c] : 1.f;
      // No window, no feature: a row without tokens is exactly zero, whatever the bias.
      out[f + c] = length > 0 ? positive(static_cast<float>(best[c]) * scale + conv.bias[f + c]) : 0.f;
    }
  }
}

template <class Element, class Sum>
void bag_rows(const TextCnnBag& bag, const int32_t* ids, int64_t count, float* out) {
  constexpr int kChunk = 32;
  const float scale = 1.f / __builtin_sqrtf(count > 1 ? static_cast<float>(count) : 1.f);
  for (int f = 0; f < bag.columns; f += kChunk) {
    Sum sum[kChunk] = {};
    for (int64_t i = 0; i < count; ++i) {
      const Element* row = static_cast<const Element*>(bag.table) + static_cast<std::size_t>(ids[i]) * static_cast<std::size_t>(bag.columns) + f;
      for (int c = 0; c < kChunk; ++c) sum[c] += row[c];
    }
    for (int c = 0; c < kChunk; ++c)
      out[f + c] = positive(static_cast<float>(sum[c]) * scale * (bag.scale ? bag.scale[f + c] : 1.f) + bag.bias[f + c]);
  }
}

float quantize(const float* features, int depth, uint8_t* codes) {
  float largest = 0;
  for (int k = 0; k < depth; ++k) largest = features[k] > largest ? features[k] : largest;
  const float scale = largest > 0 ? 255.f / largest : 0.f;
  for (int k = 0; k < depth; ++k) codes[k] = static_cast<uint8_t>(__builtin_rintf(features[k] * scale));
  return largest / 255.f;
}

// --- products ---------------------------------------------------------------------------------------------------------
// 2^x for x <= 24; inputs below -126 count as -126.
float exp2_of(float x) {
  x = x > -126.f ? x : -126.f;
  const float n = __builtin_floorf(x), r = x - n;
  float p = kExp2[5];
  for (int i = 4; i >= 0; --i) p = p * r + kExp2[i];
  const union {
    int32_t bits;
    float value;
  } power = {(static_cast<int32_t>(n) + 127) * (1 << 23)};
  return p * power.value;
}

void take(TextCnnTop& top, const float* logits, int first_column) {
  for (int c = 0; c < kTextCnnPanel; ++c) {
    const float v = logits[c];
    if (v > top.threshold) {
      if (top.found == 0)
        top.reference = v;
      else if (v > top.reference + kRebase)
        top_rebase(top, v, exp2_of((top.reference - v) * kLog2E));
      top_insert(top, v, first_column + c);
    }
    top.sums[c % 16] += exp2_of((v - top.reference) * kLog2E);
  }
}

// What is done with the 32 finished logits of a row.
struct ToTop {
  TextCnnTop* tops;
  void operator()(int row, int column, const float* logits) const { take(tops[row], logits, column); }
};
struct ToMemory {
  float* out;
  std::size_t stride;
  void operator()(int row, int column, const float* logits) const {
    float* to = out + static_cast<std::size_t>(row) * stride + column;
    for (int c = 0; c < kTextCnnPanel; ++c) to[c] = logits[c];
  }
};

constexpr int kRows = 4;

// Sums of 4 rows and one panel.
void panel_f32(const float* const* rows, int depth, const float* weights, float (*sums)[kTextCnnPanel]) {
  for (int c = 0; c < kTextCnnPanel; c += 8) {
    Float4 acc[kRows][2] = {};
    const float* w = weights + c;
    for (int k = 0; k < depth; ++k, w += kTextCnnPanel) {
      const Float4 w0 = load(w), w1 = load(w + 4);
      for (int r = 0; r < kRows; ++r) {
        acc[r][0] += w0 * rows[r][k];
        acc[r][1] += w1 * rows[r][k];
      }
    }
    for (int r = 0; r < kRows; ++r) {
      store(sums[r] + c, acc[r][0]);
      store(sums[r] + c + 4, acc[r][1]);
    }
  }
}

template <class Sink>
void run_f32(const TextCnnProduct& p, const Sink& sink) {
  alignas(64) float sums[kRows][kTextCnnPanel];
  for (int panel = 0; panel < p.panels; ++panel)
    for (int m = 0; m < p.count; m += kRows) {
      const float* rows[kRows];  // the last group repeats its last row rather than having code of its own
      for (int r = 0; r < kRows; ++r)
        rows[r] = static_cast<const float*>(p.rows) + static_cast<std::size_t>(m + r < p.count ? m + r : p.count - 1) * p.row_stride;
      panel_f32(rows, p.depth, static_cast<const float*>(p.weights) + static_cast<std::size_t>(panel) * kTextCnnPanel * static_cast<std::size_t>(p.depth), sums);
      for (int r = 0; r < kRows && m + r < p.count; ++r) {
        for (int c = 0; c < kTextCnnPanel; ++c) sums[r][c] += p.bias[panel * kTextCnnPanel + c];
        sink(m + r, panel * kTextCnnPanel, sums[r]);
      }
    }
}

template <class Sink>
void run_i8(const TextCnnProduct& p, const Sink& sink) {
  const std::size_t depth = static_cast<std::size_t>(p.depth);
  alignas(64) float logits[kTextCnnPanel];
  for (int panel = 0; panel < p.panels; ++panel)
    for (int m = 0; m < p.count; ++m) {
      const uint8_t* x = static_cast<const uint8_t*>(p.rows) + static_cast<std::size_t>(m) * p.row_stride;
      const int8_t* w = static_cast<const int8_t*>(p.weights) + static_cast<std::size_t>(panel) * kTextCnnPanel * depth;
      int32_t sums[kTextCnnPanel] = {};
      for (std::size_t k = 0; k < depth; k += 64, w += 2048)
        for (int half = 0; half < 2; ++half)
          for (std::size_t g = 0; g < 16; ++g) {
            const int8_t* group = w + half * 1024 + g * 64;
            const uint8_t* four = x + k + g * 4;
            for (int c = 0; c < 16; ++c)
              sums[half * 16 + c] += four[0] * group[4 * c] + four[1] * group[4 * c + 1] + four[2] * group[4 * c + 2] + four[3] * group[4 * c + 3];
          }
      for (int c = 0; c < kTextCnnPanel; ++c) {
        const int column = panel * kTextCnnPanel + c;
        logits[c] = static_cast<float>(sums[c]) * p.row_scale[m] * p.column_scale[column] + p.bias[column];
      }
      sink(m, panel * kTextCnnPanel, logits);
    }
}

void product_f32(const TextCnnProduct& p, float* out, std::size_t stride) { run_f32(p, ToMemory{out, stride}); }
void product_i8(const TextCnnProduct& p, float* out, std::size_t stride) { run_i8(p, ToMemory{out, stride}); }
void top_f32(const TextCnnProduct& p, TextCnnTop* tops) { run_f32(p, ToTop{tops}); }
void top_i8(const TextCnnProduct& p, TextCnnTop* tops) { run_i8(p, ToTop{tops}); }

}  // namespace

const TextCnnKernels kTextCnn_baseline = {conv_rows<float, float>, conv_rows<int8_t, int16_t>, bag_rows<float, float>, bag_rows<int8_t, int32_t>,
                                          quantize, product_f32, product_i8, top_f32, top_i8};
}  // namespace aitems
