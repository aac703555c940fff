// Text classifier kernels for AMX INT8 tiles: only the int8 products differ from textcnn_v4.cpp, on the same packed weights. Tiles
// pay from 16 rows; below, the VNNI product runs. Where there is no AMX, tests/cpp/test_textcnn_amx.cpp runs the tile logic through a
// scalar emulation.
#include "simd/textcnn_avx512.inc"

#include "simd/kernels.hpp"

namespace aitems {
extern const TextCnnKernels kTextCnn_v4;
extern const TextCnnKernels kTextCnn_amx;
#include "simd/amx_tiles.inc"
#include "simd/textcnn_amx_tiles.inc"

namespace {

constexpr int kRowsMin = 16;
constexpr int kBlock = 192;

// Calls small(product, first) for the rows that do not fill half a block, tiles for the others.
template <class Finish, class Small>
inline void run(const TextCnnProduct& p, const Finish& finish, const Small& small) {
  for (int block = 0; block < p.count; block += kBlock) {
    TextCnnProduct part = p;
    part.rows = static_cast<const uint8_t*>(p.rows) + static_cast<std::size_t>(block) * p.row_stride;
    part.row_scale = p.row_scale + block;
    const int rows = p.count - block < kBlock ? p.count - block : kBlock, rest = rows % 32 < kRowsMin ? rows % 32 : 0;
    part.count = rows - rest;
    if (part.count) amx_blocks(part, [&](int row, int here, int panel, const int32_t* sums) { finish(block + row, here, panel, sums); });
    if (rest) {
      part.rows = static_cast<const uint8_t*>(part.rows) + static_cast<std::size_t>(part.count) * p.row_stride;
      part.row_scale += part.count;
      const int first = block + part.count;
      part.count = rest;
      small(part, first);
    }
  }
}

inline __m512 logit(const TextCnnProduct& p, const int32_t* sums, int row, int column) {
  return dequantized(_mm512_load_si512(sums), p.row_scale[row], p.column_scale + column, p.bias + column);
}

void product_i8(const TextCnnProduct& p, float* out, std::size_t stride) {
  run(
      p,
      [&](int row, int rows, int panel, const int32_t* sums) {
        const int column = panel * kTextCnnPanel;
        for (int r = 0; r < rows; ++r, sums += 32) {
          float* to = out + static_cast<std::size_t>(row + r) * stride + column;
          _mm512_storeu_ps(to, logit(p, sums, row + r, column));
          _mm512_storeu_ps(to + 16, logit(p, sums + 16, row + r, column + 16));
        }
      },
      [&](const TextCnnProduct& part, int first) { kTextCnn_v4.product_i8(part, out + static_cast<std::size_t>(first) * stride, stride); });
}

void top_i8(const TextCnnProduct& p, TextCnnTop* tops) {
  run(
      p,
      [&](int row, int rows, int panel, const int32_t* sums) {
        const int column = panel * kTextCnnPanel;
        for (int r = 0; r < rows; ++r, sums += 32) take(tops[row + r], logit(p, sums, row + r, column), logit(p, sums + 16, row + r, column + 16), column);
      },
      [&](const TextCnnProduct& part, int first) { kTextCnn_v4.top_i8(part, tops + first); });
}

// The rest is that of v4.
void conv_f32(const TextCnnConv& c, const int32_t* ids, int n, float* out) { kTextCnn_v4.conv_f32(c, ids, n, out); }
void conv_i8(const TextCnnConv& c, const int32_t* ids, int n, float* out) { kTextCnn_v4.conv_i8(c, ids, n, out); }
void bag_f32(const TextCnnBag& b, const int32_t* ids, int64_t n, float* out) { kTextCnn_v4.bag_f32(b, ids, n, out); }
void bag_i8(const TextCnnBag& b, const int32_t* ids, int64_t n, float* out) { kTextCnn_v4.bag_i8(b, ids, n, out); }
float quantize(const float* features, int depth, uint8_t* codes) { return kTextCnn_v4.quantize(features, depth, codes); }
void product_f32(const TextCnnProduct& p, float* out, std::size_t stride) { kTextCnn_v4.product_f32(p, out, stride); }
void top_f32(const TextCnnProduct& p, TextCnnTop* tops) { kTextCnn_v4.top_f32(p, tops); }

}  // namespace

const TextCnnKernels kTextCnn_amx = {conv_f32, conv_i8, bag_f32, bag_i8, quantize, product_f32, product_i8, top_f32, top_i8};
}  // namespace aitems
