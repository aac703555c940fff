// Text classifier kernels in portable C++ (GCC vector extensions of 16 bytes: SSE and NEON alike). The meaning of every kernel is
// defined here; the other levels only do the same faster.
#include "simd/kernels.hpp"
#include "simd/textcnn_kernels.hpp"
#include "simd/textcnn_top.inc"

namespace aitems {
extern const TextCnnKernels kTextCnn_baseline;
namespace {

typedef float Float4 __attribute__((vector_size(16), aligned(4), may_alias));

Float4 load(const float* p) { return *reinterpret_cast<const Float4*>(p); }
void store(float* p, Float4 v) { *reinterpret_cast<Float4*>(p) = v; }
Float4 maximum(Float4 a, Float4 b) { return a > b ? a : b; }
Float4 all(float v) { return Float4{v, v, v, v}; }

void conv_f32(const TextCnnConv& conv, const int32_t* ids, int length, float* out) {
  const float* table = static_cast<const float*>(conv.table);
  for (int f = 0; f < conv.filters; f += 16) {
    Float4 best[4] = {};
    for (int t = 0; t < length; ++t) {
      const int taps = length - t < conv.width ? length - t : conv.width;
      Float4 sum[4] = {};
      for (int j = 0; j < taps; ++j) {
        const float* row = table + static_cast<std::size_t>(ids[t + j]) * conv.token_stride + static_cast<std::size_t>(j) * conv.filters + f;
        for (int c = 0; c < 4; ++c) sum[c] += load(row + 4 * c);
      }
      for (int c = 0; c < 4; ++c) best[c] = t == 0 ? sum[c] : maximum(sum[c], best[c]);
    }
    for (int c = 0; c < 4; ++c) {
      // No window, no feature: an empty row is exactly zero, whatever the bias.
      const Float4 value = length > 0 ? best[c] + load(conv.bias + f + 4 * c) : all(0.f);
      store(out + f + 4 * c, maximum(value, all(0.f)));
    }
  }
}

void bag_f32(const float* table, int columns, const int32_t* ids, int64_t count, const float* bias, float* out) {
  for (int c = 0; c < columns; c += 4) store(out + c, all(0.f));
  for (int64_t i = 0; i < count; ++i) {
    const float* row = table + static_cast<std::size_t>(ids[i]) * static_cast<std::size_t>(columns);
    for (int c = 0; c < columns; c += 4) store(out + c, load(out + c) + load(row + c));
  }
  const Float4 scale = all(1.f / __builtin_sqrtf(count > 1 ? static_cast<float>(count) : 1.f));
  for (int c = 0; c < columns; c += 4) store(out + c, maximum(load(out + c) * scale + load(bias + c), all(0.f)));
}

// exp for x <= 60, relative error below 2e-7; 0 or denormal noise below -87. Cephes' range reduction and a degree-5 polynomial.
float exponential(float x) {
  if (x < -87.f) return 0.f;
  const float n = __builtin_floorf(x * 1.44269504f + 0.5f);
  float r = x - n * 0.693359375f;
  r -= n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  union { int32_t bits; float value; } power;
  power.bits = (static_cast<int32_t>(n) + 127) << 23;
  return p * power.value;
}

// Sums of up to 4 rows and one panel, without bias.
void panel_f32(const float* const* rows, int depth, const float* weights, float (*sums)[kTextCnnPanel]) {
  for (int c = 0; c < kTextCnnPanel; c += 8) {
    Float4 acc[4][2] = {};
    const float* w = weights + c;
    for (int k = 0; k < depth; ++k, w += kTextCnnPanel) {
      const Float4 w0 = load(w), w1 = load(w + 4);
      for (int r = 0; r < 4; ++r) {
        acc[r][0] += w0 * rows[r][k];
        acc[r][1] += w1 * rows[r][k];
      }
    }
    for (int r = 0; r < 4; ++r) {
      store(sums[r] + c, acc[r][0]);
      store(sums[r] + c + 4, acc[r][1]);
    }
  }
}

void take(TextCnnTop& top, const float* logits, int first_column) {
  for (int c = 0; c < kTextCnnPanel; ++c) {
    const float v = logits[c];
    if (v > top.threshold) {
      if (top.found == 0)
        top.reference = v;
      else if (v > top.reference + 60.f)
        top_rebase(top, v, exponential(top.reference - v));
      top_insert(top, v, first_column + c);
    }
    top.sums[c % 16] += exponential(v - top.reference);
  }
}

// Rows are worked on four at a time; the last group repeats its last row rather than having code of its own.
constexpr int kRows = 4;

void product_f32(const TextCnnProduct& p, float* out, std::size_t out_stride) {
  alignas(64) float sums[kRows][kTextCnnPanel];
  for (int panel = 0; panel < p.panels; ++panel)
    for (int m = 0; m < p.count; m += kRows) {
      const float* rows[kRows];
      for (int r = 0; r < kRows; ++r)
        rows[r] = static_cast<const float*>(p.rows) + static_cast<std::size_t>(m + r < p.count ? m + r : p.count - 1) * p.row_stride;
      panel_f32(rows, p.depth, static_cast<const float*>(p.weights) + static_cast<std::size_t>(panel) * kTextCnnPanel * p.depth, sums);
      for (int r = 0; r < kRows && m + r < p.count; ++r)
        for (int c = 0; c < kTextCnnPanel; ++c)
          out[static_cast<std::size_t>(m + r) * out_stride + static_cast<std::size_t>(panel) * kTextCnnPanel + c] = sums[r][c] + p.bias[panel * kTextCnnPanel + c];
    }
}

void top_f32(const TextCnnProduct& p, TextCnnTop* tops) {
  alignas(64) float sums[kRows][kTextCnnPanel];
  for (int panel = 0; panel < p.panels; ++panel)
    for (int m = 0; m < p.count; m += kRows) {
      const float* rows[kRows];
      for (int r = 0; r < kRows; ++r)
        rows[r] = static_cast<const float*>(p.rows) + static_cast<std::size_t>(m + r < p.count ? m + r : p.count - 1) * p.row_stride;
      panel_f32(rows, p.depth, static_cast<const float*>(p.weights) + static_cast<std::size_t>(panel) * kTextCnnPanel * p.depth, sums);
      for (int r = 0; r < kRows && m + r < p.count; ++r) {
        for (int c = 0; c < kTextCnnPanel; ++c) sums[r][c] += p.bias[panel * kTextCnnPanel + c];
        take(tops[m + r], sums[r], panel * kTextCnnPanel);
      }
    }
}

}  // namespace

const TextCnnKernels kTextCnn_baseline = {conv_f32, bag_f32, product_f32, top_f32};
}  // namespace aitems
