// What the text classifier (csrc/textcnn) needs from an ISA level. Raw pointers only; the caller has checked every size.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aitems {

// Columns of a weight panel. Every group of features and every output is padded to this many columns.
constexpr int kTextCnnPanel = 32;
// Largest top-k that is kept beside the product; above it the caller asks for all logits.
constexpr int kTextCnnMaxTop = 64;

// One convolution of the folded text CNN for one row:
//   out[f] = relu(scale[f] * max over t of sum over j of table[ids[t + j]][j][f] + bias[f]), 0 for a row without tokens.
struct TextCnnConv {
  const void* table;         // first token, first tap of this width
  std::size_t token_stride;  // elements from token to token
  int width;
  int filters;         // multiple of kTextCnnPanel
  const float* scale;  // one a filter; absent (scale 1) for float tables
  const float* bias;
};

// The bag of one row: out[c] = relu(scale[c] * sum of the rows / sqrt(max(1, count)) + bias[c]).
struct TextCnnBag {
  const void* table;
  int columns;         // multiple of kTextCnnPanel
  const float* scale;  // absent for float tables
  const float* bias;
};

// rows (count, depth) times weights in panels of 32 columns, plus bias.
//   float: rows float, weights [panel][depth][32].
//   int8:  rows uint8, weights int8 [panel][depth / 64][2 halves][16 groups of 4][16 columns][4]; depth is a multiple of 64.
//          The same bytes are AMX tiles (16 x 64 B) and VNNI operands. logit = sum * row_scale * column_scale + bias.
struct TextCnnProduct {
  const void* rows;  // int8: readable up to the next multiple of 32 rows
  std::size_t row_stride;  // elements
  int count;
  int depth;
  const void* weights;
  int panels;
  const float* bias;          // padded columns: a very negative number for heads, 0 otherwise
  const float* row_scale;     // int8 only
  const float* column_scale;  // int8 only
};

// Running best k and softmax normaliser of one row. The caller sets k, found = 0, threshold = -inf, sums = 0.
struct alignas(64) TextCnnTop {
  float sums[16];   // sum of exp(logit - reference), spread over lanes
  float threshold;  // a logit must exceed it to enter: the k-th best so far, -inf until k are found
  float reference;  // some logit seen so far, at most 16 below the largest one
  int32_t k;
  int32_t found;
  alignas(64) float values[kTextCnnMaxTop];  // descending; ties: lower index first
  int32_t indices[kTextCnnMaxTop];
};

struct TextCnnKernels {
  void (*conv_f32)(const TextCnnConv& conv, const int32_t* ids, int length, float* out);
  void (*conv_i8)(const TextCnnConv& conv, const int32_t* ids, int length, float* out);
  void (*bag_f32)(const TextCnnBag& bag, const int32_t* ids, int64_t count, float* out);
  void (*bag_i8)(const TextCnnBag& bag, const int32_t* ids, int64_t count, float* out);
  // Codes of a row of features >= 0, as large as this level's int8 product takes them; returns the scale of the row.
  float (*quantize)(const float* features, int depth, uint8_t* codes);
  // all logits
  void (*product_f32)(const TextCnnProduct& product, float* out, std::size_t out_stride);
  void (*product_i8)(const TextCnnProduct& product, float* out, std::size_t out_stride);
  // running best k and normaliser
  void (*top_f32)(const TextCnnProduct& product, TextCnnTop* tops);
  void (*top_i8)(const TextCnnProduct& product, TextCnnTop* tops);
};

}  // namespace aitems
