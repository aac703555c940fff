// The trained text classifier in the form it is served in: convolutions folded into tables of one row a token, weights packed
// into panels for the product kernels. Built once from named tensors, then never changed; shared by all threads.
//
// The definition of the model (tests/reference/textcnn.py is the slow twin):
//   branch b in {title, mall}, width w: b.conv{w}.weight (F, D, w), b.conv{w}.bias (F,): windows start at every real token and read
//   zeros past the end; feature = relu(max over windows + bias); a row without tokens is exactly 0.
//   bag: title.bag.weight (B, H), title.bag.bias (H,): relu(sum of rows / sqrt(max(1, count)) + bias).
//   h = [title convs by width, bag, mall convs by width] -> optional fc (R, K) with relu -> head (C, K or R) -> logits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "simd/isa.hpp"
#include "simd/textcnn_kernels.hpp"

namespace aitems::textcnn {

struct Tensor {
  const float* data;
  std::vector<int64_t> shape;
};
using Tensors = std::map<std::string, Tensor>;

enum class Mode {
  kExact,  // float32 throughout
  kInt8,   // tables int8, features uint8 with a scale a row, weights int8 with a scale an output
};
enum class Element { kF32, kI8 };

// A table of rows that are gathered and added.
struct Table {
  Element element = Element::kF32;
  AlignedBuffer<unsigned char> bytes;

  std::size_t element_size() const { return element == Element::kF32 ? 4 : 1; }
  const void* at(std::size_t index) const { return bytes.data() + index * element_size(); }
};

// One convolution as it lies in a branch's table and in the row of features.
struct ConvLayout {
  int width;
  int filters;         // as trained
  int padded;          // filters rounded up to a panel
  std::size_t offset;  // first element of this width within a token's row
  int feature;         // first feature
};

struct Branch {
  std::vector<ConvLayout> convs;
  std::size_t token_stride = 0;  // elements
  Table table;
  AlignedBuffer<float> scale, bias;  // by feature, the branch's first one at 0; no scale for float tables
  bool present() const { return !convs.empty(); }
};

struct Bag {
  int64_t buckets = 0;
  int columns = 0;  // padded
  int feature = 0;
  Table table;
  AlignedBuffer<float> scale, bias;
  bool present() const { return buckets > 0; }
};

// A dense layer, packed.
struct Dense {
  int depth = 0;    // padded
  int columns = 0;  // as trained
  int panels = 0;
  AlignedBuffer<float> weights_f32;  // exact mode
  AlignedBuffer<int8_t> weights_i8;  // int8 mode
  AlignedBuffer<float> scale, bias;
  bool present() const { return columns > 0; }
};

class Model {
 public:
  // Throws InvalidInput for missing, misshapen, non-finite or absurdly large tensors.
  Model(const Tensors& tensors, Mode mode, Isa isa, int threads);

  Mode mode;
  Isa isa;
  int64_t vocabulary = 0;
  int64_t dimension = 0;
  Branch title, mall;
  Bag bag;
  Dense fc, head;
  int depth = 0;  // features of a row, padded

  int64_t classes() const { return head.columns; }
  std::size_t table_bytes() const;
  std::size_t weight_bytes() const;
};

}  // namespace aitems::textcnn
