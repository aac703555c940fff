#include "textcnn/model.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <set>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "simd/kernels.hpp"

namespace aitems::textcnn {
namespace {

constexpr int kPanel = kTextCnnPanel;
constexpr int kMaxWidth = 16;
// Bounds far above any model of this kind; they keep all sizes within int and all sums within float.
constexpr int64_t kMaxVocabulary = 4'000'000, kMaxDimension = 4096, kMaxFilters = 8192, kMaxBuckets = 1 << 26, kMaxClasses = 2'000'000;
constexpr float kMaxWeight = 1e9f;

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

// Packs weights (columns, depth) into panels [panel][depth][32]. `place[k]` is the padded row of input k.
template <class Weight>
AlignedBuffer<float> pack_f32(int64_t columns, int padded_depth, int panels, const std::vector<int>& place, const Weight& weight) {
  AlignedBuffer<float> out(static_cast<std::size_t>(panels) * kPanel * static_cast<std::size_t>(padded_depth));
  for (int64_t c = 0; c < columns; ++c)
    for (std::size_t k = 0; k < place.size(); ++k)
      out[(static_cast<std::size_t>(c / kPanel) * static_cast<std::size_t>(padded_depth) + static_cast<std::size_t>(place[k])) * kPanel +
          static_cast<std::size_t>(c % kPanel)] = weight(c, static_cast<int64_t>(k));
  return out;
}

// The position of every trained feature within the padded row of features.
void place_group(std::vector<int>& place, int first, int count) {
  for (int i = 0; i < count; ++i) place.push_back(first + i);
}

void read_branch(Reader& reader, const std::string& name, const Tensor& embedding, Isa isa, int threads, Branch& branch, std::vector<int>& place, int& depth) {
  const int64_t vocabulary = embedding.shape[0], dimension = embedding.shape[1];
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

  branch.bias = AlignedBuffer<float>(static_cast<std::size_t>(depth - first));
  // The fold is a product: token vectors times the taps of all filters, laid out like a token's row.
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
  const AlignedBuffer<float> no_bias(branch.token_stride);
  branch.table_f32 = AlignedBuffer<float>(static_cast<std::size_t>(vocabulary) * branch.token_stride);
  const TextCnnKernels& kernel = *kernels(isa).textcnn;
  parallel_for(static_cast<std::size_t>(vocabulary), 256, threads, [&](std::size_t begin, std::size_t end, int) {
    TextCnnProduct product{};
    product.rows = embedding.data + begin * static_cast<std::size_t>(dimension);
    product.row_stride = static_cast<std::size_t>(dimension);
    product.count = static_cast<int>(end - begin);
    product.depth = static_cast<int>(dimension);
    product.weights = taps.data();
    product.panels = static_cast<int>(branch.token_stride / kPanel);
    product.bias = no_bias.data();
    kernel.product_f32(product, branch.table_f32.data() + begin * branch.token_stride, branch.token_stride);
  });
}

void read_bag(Reader& reader, Bag& bag, std::vector<int>& place, int& depth) {
  if (!reader.has("title.bag.weight")) return;
  const Tensor& weight = reader.take("title.bag.weight", {-1, -1});
  const Tensor& bias = reader.take("title.bag.bias", {weight.shape[1]});
  limit("the number of n-gram buckets", weight.shape[0], kMaxBuckets);
  limit("the width of the n-gram bag", weight.shape[1], kMaxFilters);
  const auto hidden = static_cast<std::size_t>(weight.shape[1]);
  bag.buckets = weight.shape[0];
  bag.columns = round_up(weight.shape[1], kPanel);
  bag.feature = depth;
  bag.bias = AlignedBuffer<float>(static_cast<std::size_t>(bag.columns));
  std::copy(bias.data, bias.data + hidden, bag.bias.data());
  bag.table_f32 = AlignedBuffer<float>(static_cast<std::size_t>(bag.buckets) * static_cast<std::size_t>(bag.columns));
  for (std::size_t b = 0; b < static_cast<std::size_t>(bag.buckets); ++b)
    std::copy(weight.data + b * hidden, weight.data + (b + 1) * hidden, bag.table_f32.data() + b * static_cast<std::size_t>(bag.columns));
  place_group(place, depth, static_cast<int>(hidden));
  depth += bag.columns;
}

void read_dense(Reader& reader, const std::string& name, const std::vector<int>& place, int padded_depth, float padding_bias, Dense& dense) {
  const auto inputs = static_cast<int64_t>(place.size());
  const Tensor& weight = reader.take(name + ".weight", {-1, inputs});
  const Tensor& bias = reader.take(name + ".bias", {weight.shape[0]});
  limit("the number of outputs of '" + name + "'", weight.shape[0], kMaxClasses);
  dense.depth = padded_depth;
  dense.columns = static_cast<int>(weight.shape[0]);
  dense.panels = round_up(dense.columns, kPanel) / kPanel;
  dense.bias = AlignedBuffer<float>(static_cast<std::size_t>(dense.panels) * kPanel);
  std::fill(dense.bias.data(), dense.bias.data() + dense.bias.size(), padding_bias);
  std::copy(bias.data, bias.data + dense.columns, dense.bias.data());
  dense.weights_f32 = pack_f32(dense.columns, padded_depth, dense.panels, place, [&](int64_t c, int64_t k) { return weight.data[c * inputs + k]; });
}

}  // namespace

Model::Model(const Tensors& tensors, Mode mode_, Isa isa_, int threads) : mode(mode_), isa(isa_) {
  Reader reader(tensors);
  const Tensor& embedding = reader.take("embedding.weight", {-1, -1});
  vocabulary = embedding.shape[0];
  dimension = embedding.shape[1];
  limit("the vocabulary", vocabulary, kMaxVocabulary);
  limit("the embedding's dimension", dimension, kMaxDimension);
  if (reader.widths("title").empty()) invalid("the model has no title convolution: a tensor 'title.conv{w}.weight' of shape (filters, dimension, w) is needed, w from 1 to 16");

  std::vector<int> place;
  read_branch(reader, "title", embedding, isa, threads, title, place, depth);
  read_bag(reader, bag, place, depth);
  read_branch(reader, "mall", embedding, isa, threads, mall, place, depth);

  if (reader.has("fc.weight")) {
    read_dense(reader, "fc", place, depth, 0.f, fc);
    std::vector<int> hidden;
    place_group(hidden, 0, fc.columns);
    read_dense(reader, "head", hidden, fc.panels * kPanel, -FLT_MAX, head);
  } else {
    read_dense(reader, "head", place, depth, -FLT_MAX, head);
  }
  reader.refuse_unknown();
}

std::size_t Model::table_bytes() const { return title.table_f32.bytes() + mall.table_f32.bytes() + bag.table_f32.bytes(); }

std::size_t Model::weight_bytes() const { return fc.weights_f32.bytes() + head.weights_f32.bytes(); }

}  // namespace aitems::textcnn
