#include "textcnn/model.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <mutex>
#include <set>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "simd/kernels.hpp"

namespace aitems::textcnn {
namespace {

constexpr int kPanel = kTextCnnPanel;
constexpr int kDepthStep = 64;  // what the int8 products ask for
constexpr int kMaxWidth = 16;
// Bounds far above any model of this kind; they keep all sizes within int and all sums within float.
constexpr int64_t kMaxVocabulary = 4'000'000, kMaxDimension = 4096, kMaxFilters = 8192, kMaxBuckets = 1 << 26, kMaxClasses = 2'000'000;
constexpr float kMaxWeight = 1e9f;
// A table is vocabulary x widths x filters: small tensors can ask for more memory than any machine has.
constexpr std::size_t kMaxTableBytes = std::size_t{32} << 30;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

// -1 stands for any size and is written as n.
std::string text(const std::vector<int64_t>& shape) {
  std::string out("(");
  for (std::size_t i = 0; i < shape.size(); ++i) out.append(i ? ", " : "").append(shape[i] < 0 ? "n" : std::to_string(shape[i]));
  return out.append(shape.size() == 1 ? ",)" : ")");
}

int round_up(int64_t n, int to) { return static_cast<int>((n + to - 1) / to * to); }

// Takes tensors by name, checks them, and knows which were not asked for.
class Reader {
 public:
  explicit Reader(const Tensors& tensors) : tensors_(tensors) {}

  bool has(const std::string& name) const { return tensors_.count(name) > 0; }

  // `shape`: -1 = any size of at least 1.
  const Tensor& take(const std::string& name, const std::vector<int64_t>& shape) {
    const auto at = tensors_.find(name);
    if (at == tensors_.end()) invalid("the model has no tensor '" + name + "'; it must have shape " + text(shape));
    const Tensor& tensor = at->second;
    bool same = tensor.shape.size() == shape.size();
    std::size_t size = 1;
    for (std::size_t i = 0; same && i < shape.size(); ++i) {
      same = tensor.shape[i] >= 1 && (shape[i] < 0 || tensor.shape[i] == shape[i]);
      size *= static_cast<std::size_t>(tensor.shape[i]);
    }
    if (!same) invalid("tensor '" + name + "' must have shape " + text(shape) + ", got " + text(tensor.shape));
    for (std::size_t i = 0; i < size; ++i)
      if (!(std::fabs(tensor.data[i]) <= kMaxWeight))
        invalid("tensor '" + name + "' holds " + std::to_string(tensor.data[i]) + " at flat position " + std::to_string(i) +
                "; weights must be finite and at most 1e9 in size");
    taken_.insert(name);
    return tensor;
  }

  void refuse_unknown() const {
    for (const auto& [name, tensor] : tensors_)
      if (!taken_.count(name) && name.rfind("aux.", 0) != 0)
        invalid("the model has a tensor '" + name + "' of shape " + text(tensor.shape) +
                " that the text classifier does not know; tensors that it should ignore are named aux.*");
  }

  // Widths w for which `branch`.conv{w}.weight is there, ascending.
  std::vector<int> widths(const std::string& branch) const {
    std::vector<int> found;
    for (int w = 1; w <= kMaxWidth; ++w)
      if (has(branch + ".conv" + std::to_string(w) + ".weight")) found.push_back(w);
    return found;
  }

 private:
  const Tensors& tensors_;
  std::set<std::string> taken_;
};

void limit(const std::string& what, int64_t value, int64_t most) {
  if (value > most) invalid(what + " must be at most " + std::to_string(most) + ", got " + std::to_string(value));
}

// The position of every trained feature within the padded row of features.
void place_group(std::vector<int>& place, int first, int count) {
  for (int i = 0; i < count; ++i) place.push_back(first + i);
}

// Smallest scale that leaves no quantised value out of range; 1 where everything is zero.
float scale_for(float largest, float most) { return largest > 0 ? largest / most : 1.f; }

void quantize(const float* from, std::size_t size, const float* scale, int8_t* to) {
  for (std::size_t i = 0; i < size; ++i) to[i] = static_cast<int8_t>(std::nearbyint(from[i] / scale[i]));
}

// Writes rows of floats into a table of any element.
void write_rows(Table& table, std::size_t first, std::size_t rows, std::size_t columns, const float* from, const float* scale) {
  for (std::size_t r = 0; r < rows; ++r, from += columns) {
    unsigned char* to = table.bytes.data() + (first + r) * columns * table.element_size();
    if (table.element == Element::kF32)
      std::copy(from, from + columns, reinterpret_cast<float*>(to));
    else
      quantize(from, columns, scale, reinterpret_cast<int8_t*>(to));
  }
}

void widen(std::vector<float>& largest, const float* rows, std::size_t count, std::size_t columns) {
  for (std::size_t r = 0; r < count; ++r, rows += columns)
    for (std::size_t c = 0; c < columns; ++c) largest[c] = std::max(largest[c], std::fabs(rows[c]));
}

// Tokens that are folded at a time: their float rows exist only for that long.
constexpr std::size_t kFoldTokens = 192;

// Fills the branch's table: one product of token vectors and taps; for integer tables twice, first to find the scales.
void fold(const Tensor& embedding, const AlignedBuffer<float>& taps, Isa isa, int threads, Branch& branch) {
  const auto vocabulary = static_cast<std::size_t>(embedding.shape[0]), dimension = static_cast<std::size_t>(embedding.shape[1]);
  const std::size_t stride = branch.token_stride;
  const AlignedBuffer<float> no_bias(stride);
  const TextCnnKernels& kernel = *kernels(isa).textcnn;
  const auto for_tokens = [&](const auto& body) {
    parallel_for(vocabulary, kFoldTokens, threads, [&](std::size_t begin, std::size_t end, int) {
      AlignedBuffer<float> rows((end - begin) * stride);
      TextCnnProduct product{};
      product.rows = embedding.data + begin * dimension;
      product.row_stride = dimension;
      product.count = static_cast<int>(end - begin);
      product.depth = static_cast<int>(dimension);
      product.weights = taps.data();
      product.panels = static_cast<int>(stride / kPanel);
      product.bias = no_bias.data();
      kernel.product_f32(product, rows.data(), stride);
      body(begin, end - begin, rows.data());
    });
  };
  branch.table.bytes = AlignedBuffer<unsigned char>(vocabulary * stride * branch.table.element_size());
  std::vector<float> scale;
  if (branch.table.element != Element::kF32) {
    std::vector<float> largest(stride, 0.f);
    std::mutex mutex;
    for_tokens([&](std::size_t, std::size_t count, const float* rows) {
      std::vector<float> here(stride, 0.f);
      widen(here, rows, count, stride);
      const std::lock_guard<std::mutex> lock(mutex);
      for (std::size_t c = 0; c < stride; ++c) largest[c] = std::max(largest[c], here[c]);
    });
    // The taps of a filter are added as integers, so they share a scale.
    scale.resize(stride);
    branch.scale = AlignedBuffer<float>(branch.bias.size());
    for (const ConvLayout& conv : branch.convs) {
      for (int f = 0; f < conv.padded; ++f) {
        const auto column = [&](int j) { return conv.offset + static_cast<std::size_t>(j * conv.padded + f); };
        float top = 0;
        for (int j = 0; j < conv.width; ++j) top = std::max(top, largest[column(j)]);
        for (int j = 0; j < conv.width; ++j) scale[column(j)] = scale_for(top, 127.f);
        branch.scale[static_cast<std::size_t>(conv.feature - branch.convs.front().feature + f)] = scale_for(top, 127.f);
      }
    }
  }
  for_tokens([&](std::size_t first, std::size_t count, const float* rows) { write_rows(branch.table, first, count, stride, rows, scale.data()); });
}

void read_branch(Reader& reader, const std::string& name, const Tensor& embedding, Isa isa, int threads, Branch& branch, std::vector<int>& place, int& depth) {
  const int64_t dimension = embedding.shape[1];
  std::vector<const Tensor*> weights;
  const int first = depth;
  for (int w : reader.widths(name)) {
    const std::string conv = name + ".conv" + std::to_string(w);
    const Tensor& weight = reader.take(conv + ".weight", {-1, dimension, w});
    const int64_t filters = weight.shape[0];
    limit("the number of filters of '" + conv + "'", filters, kMaxFilters);
    const int padded = round_up(filters, kPanel);
    branch.convs.push_back({w, static_cast<int>(filters), padded, branch.token_stride, depth});
    branch.token_stride += static_cast<std::size_t>(padded) * static_cast<std::size_t>(w);
    weights.push_back(&weight);
    place_group(place, depth, static_cast<int>(filters));
    depth += padded;
  }
  if (!branch.present()) return;

  const std::size_t table_bytes = static_cast<std::size_t>(embedding.shape[0]) * branch.token_stride * branch.table.element_size();
  if (table_bytes > kMaxTableBytes)
    invalid("the table of the '" + name + "' convolutions would take " + std::to_string(table_bytes >> 20) + " MiB (" + std::to_string(embedding.shape[0]) +
            " tokens x " + std::to_string(branch.token_stride) + " filters and taps); at most " + std::to_string(kMaxTableBytes >> 20) + " are allowed");

  branch.bias = AlignedBuffer<float>(static_cast<std::size_t>(depth - first));
  // Taps of all filters as panels whose columns lie like a token's row.
  AlignedBuffer<float> taps(branch.token_stride * static_cast<std::size_t>(dimension));
  for (std::size_t q = 0; q < branch.convs.size(); ++q) {
    const ConvLayout& conv = branch.convs[q];
    const Tensor& bias = reader.take(name + ".conv" + std::to_string(conv.width) + ".bias", {conv.filters});
    std::copy(bias.data, bias.data + conv.filters, branch.bias.data() + conv.feature - first);
    for (int f = 0; f < conv.filters; ++f)
      for (int64_t d = 0; d < dimension; ++d)
        for (int j = 0; j < conv.width; ++j) {
          const std::size_t column = conv.offset + static_cast<std::size_t>(j) * static_cast<std::size_t>(conv.padded) + static_cast<std::size_t>(f);
          taps[(column / kPanel * static_cast<std::size_t>(dimension) + static_cast<std::size_t>(d)) * kPanel + column % kPanel] =
              weights[q]->data[(static_cast<int64_t>(f) * dimension + d) * conv.width + j];
        }
  }
  fold(embedding, taps, isa, threads, branch);
}

void read_bag(Reader& reader, Bag& bag, std::vector<int>& place, int& depth) {
  if (!reader.has("title.bag.weight")) return;
  const Tensor& weight = reader.take("title.bag.weight", {-1, -1});
  const Tensor& bias = reader.take("title.bag.bias", {weight.shape[1]});
  limit("the number of n-gram buckets", weight.shape[0], kMaxBuckets);
  limit("the width of the n-gram bag", weight.shape[1], kMaxFilters);
  const auto hidden = static_cast<std::size_t>(weight.shape[1]), buckets = static_cast<std::size_t>(weight.shape[0]);
  bag.buckets = weight.shape[0];
  bag.columns = round_up(weight.shape[1], kPanel);
  bag.feature = depth;
  const auto columns = static_cast<std::size_t>(bag.columns);
  bag.bias = AlignedBuffer<float>(columns);
  std::copy(bias.data, bias.data + hidden, bag.bias.data());
  bag.table.bytes = AlignedBuffer<unsigned char>(buckets * columns * bag.table.element_size());
  if (bag.table.element != Element::kF32) {
    std::vector<float> largest(hidden, 0.f);
    widen(largest, weight.data, buckets, hidden);
    bag.scale = AlignedBuffer<float>(columns);
    for (std::size_t c = 0; c < columns; ++c) bag.scale[c] = scale_for(c < hidden ? largest[c] : 0.f, 127.f);
  }
  std::vector<float> row(columns, 0.f);
  for (std::size_t b = 0; b < buckets; ++b) {
    std::copy(weight.data + b * hidden, weight.data + (b + 1) * hidden, row.data());
    write_rows(bag.table, b, 1, columns, row.data(), bag.scale.data());
  }
  place_group(place, depth, static_cast<int>(hidden));
  depth += bag.columns;
}

// Packs weights (columns, inputs) into panels; `place[k]` is the row of input k in the padded depth.
void read_dense(Reader& reader, const std::string& name, Mode mode, const std::vector<int>& place, int depth, float padding_bias, Dense& dense) {
  const std::size_t inputs = place.size();
  const Tensor& weight = reader.take(name + ".weight", {-1, static_cast<int64_t>(inputs)});
  const Tensor& bias = reader.take(name + ".bias", {weight.shape[0]});
  limit("the number of outputs of '" + name + "'", weight.shape[0], kMaxClasses);
  const auto columns = static_cast<std::size_t>(weight.shape[0]);
  dense.columns = static_cast<int>(weight.shape[0]);
  dense.panels = round_up(dense.columns, kPanel) / kPanel;
  dense.depth = depth;
  const std::size_t padded = static_cast<std::size_t>(dense.panels) * kPanel, rows = static_cast<std::size_t>(depth);
  dense.bias = AlignedBuffer<float>(padded);
  std::fill(dense.bias.data(), dense.bias.data() + padded, padding_bias);
  std::copy(bias.data, bias.data + columns, dense.bias.data());
  if (mode == Mode::kExact) {
    dense.weights_f32 = AlignedBuffer<float>(padded * rows);
    for (std::size_t c = 0; c < columns; ++c)
      for (std::size_t i = 0; i < inputs; ++i)
        dense.weights_f32[(c / kPanel * rows + static_cast<std::size_t>(place[i])) * kPanel + c % kPanel] = weight.data[c * inputs + i];
    return;
  }
  dense.weights_i8 = AlignedBuffer<int8_t>(padded * rows);
  dense.scale = AlignedBuffer<float>(padded);
  for (std::size_t c = 0; c < columns; ++c) {
    const float* from = weight.data + c * inputs;
    float largest = 0;
    for (std::size_t i = 0; i < inputs; ++i) largest = std::max(largest, std::fabs(from[i]));
    dense.scale[c] = scale_for(largest, 127.f);
    for (std::size_t i = 0; i < inputs; ++i) {
      const auto k = static_cast<std::size_t>(place[i]);
      dense.weights_i8[c / kPanel * kPanel * rows + k / 64 * 2048 + c % kPanel / 16 * 1024 + k % 64 / 4 * 64 + c % 16 * 4 + k % 4] =
          static_cast<int8_t>(std::nearbyint(from[i] / dense.scale[c]));
    }
  }
}

}  // namespace

Model::Model(const Tensors& tensors, Mode mode_, Isa isa_, int threads) : mode(mode_), isa(isa_) {
  Reader reader(tensors);
  const Tensor& embedding = reader.take("embedding.weight", {-1, -1});
  vocabulary = embedding.shape[0];
  dimension = embedding.shape[1];
  limit("the vocabulary", vocabulary, kMaxVocabulary);
  limit("the embedding's dimension", dimension, kMaxDimension);
  if (reader.widths("title").empty())
    invalid("the model has no title convolution: a tensor 'title.conv{w}.weight' of shape (filters, dimension, w) is needed, w from 1 to 16");

  if (mode == Mode::kInt8) {
    title.table.element = mall.table.element = bag.table.element = Element::kI8;
  }
  std::vector<int> place;
  read_branch(reader, "title", embedding, isa, threads, title, place, depth);
  read_bag(reader, bag, place, depth);
  read_branch(reader, "mall", embedding, isa, threads, mall, place, depth);
  depth = round_up(depth, kDepthStep);

  if (reader.has("fc.weight")) {
    read_dense(reader, "fc", mode, place, depth, 0.f, fc);
    std::vector<int> hidden;
    place_group(hidden, 0, fc.columns);
    read_dense(reader, "head", mode, hidden, round_up(fc.columns, kDepthStep), -FLT_MAX, head);
  } else {
    read_dense(reader, "head", mode, place, depth, -FLT_MAX, head);
  }
  reader.refuse_unknown();
}

std::size_t Model::table_bytes() const { return title.table.bytes.bytes() + mall.table.bytes.bytes() + bag.table.bytes.bytes(); }

std::size_t Model::weight_bytes() const {
  return fc.weights_f32.bytes() + head.weights_f32.bytes() + fc.weights_i8.bytes() + head.weights_i8.bytes();
}

}  // namespace aitems::textcnn
