#include "textcnn/scorer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "simd/kernels.hpp"

namespace aitems::textcnn {
namespace {

constexpr std::size_t kBlock = 192;  // rows that pass the head together: their features stay in L2 while the weights stream past
constexpr std::size_t kPanel = kTextCnnPanel;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

int32_t checked_length(const char* name, const int32_t* lengths, int64_t width, std::size_t row) {
  const int32_t length = lengths[row];
  if (length < 0 || length > width)
    invalid(std::string(name) + "_lengths must be from 0 to the width of " + name + "_ids (" + std::to_string(width) + "), got " + std::to_string(length) +
            " in row " + std::to_string(row));
  return length;
}

void check_ids(const char* name, const int32_t* ids, int64_t count, int64_t limit, std::size_t row) {
  for (int64_t i = 0; i < count; ++i)
    if (static_cast<uint32_t>(ids[i]) >= static_cast<uint64_t>(limit))
      invalid(std::string(name) + "_ids must be from 0 to " + std::to_string(limit - 1) + ", got " + std::to_string(ids[i]) + " in row " +
              std::to_string(row) + ", position " + std::to_string(i));
}

void softmax(float* row, std::size_t classes) {
  const float most = *std::max_element(row, row + classes);
  double sum = 0;
  for (std::size_t c = 0; c < classes; ++c) sum += row[c] = std::exp(row[c] - most);
  const float scale = static_cast<float>(1 / sum);
  for (std::size_t c = 0; c < classes; ++c) row[c] *= scale;
}

}  // namespace

// Memory of one thread for one block. Made once, kept by the scorer.
struct Scorer::Scratch {
  AlignedBuffer<float> features, hidden, logits, scale;
  AlignedBuffer<uint8_t> codes, hidden_codes;
  AlignedBuffer<TextCnnTop> tops;

  void reserve(const Model& model) {
    if (tops.size()) return;
    const bool int8 = model.mode == Mode::kInt8;
    const auto depth = static_cast<std::size_t>(model.depth);
    const std::size_t hidden_depth = model.fc.present() ? static_cast<std::size_t>(model.head.depth) : 0;
    features = AlignedBuffer<float>(int8 ? depth : kBlock * depth);
    hidden = AlignedBuffer<float>(kBlock * hidden_depth);
    codes = AlignedBuffer<uint8_t>(int8 ? kBlock * depth : 0);
    hidden_codes = AlignedBuffer<uint8_t>(int8 ? kBlock * hidden_depth : 0);
    scale = AlignedBuffer<float>(kBlock);
    tops = AlignedBuffer<TextCnnTop>(kBlock);
  }
};

// Scratch for the time of one block, kept for the next.
class Scorer::Lease {
 public:
  explicit Lease(const Scorer& scorer) : scorer_(scorer) {
    std::lock_guard<std::mutex> lock(scorer_.mutex_);
    if (scorer_.free_.empty()) {
      scratch_ = std::make_unique<Scratch>();
    } else {
      scratch_ = std::move(scorer_.free_.back());
      scorer_.free_.pop_back();
    }
  }
  ~Lease() {
    std::lock_guard<std::mutex> lock(scorer_.mutex_);
    scorer_.free_.push_back(std::move(scratch_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Scratch& operator*() { return *scratch_; }

 private:
  const Scorer& scorer_;
  std::unique_ptr<Scratch> scratch_;
};

Scorer::Scorer(Model model) : model_(std::move(model)), kernel_(kernels(model_.isa).textcnn) {}
Scorer::~Scorer() = default;

void Scorer::check(const Inputs& in) const {
  if (in.count > 0 && (in.title_ids == nullptr || in.title_lengths == nullptr)) invalid("title_ids and title_lengths are needed");
  if (model_.bag.present()) {
    if (in.gram_splits == nullptr) invalid("this model reads character n-grams: gram_ids and gram_splits are needed");
    if (in.gram_splits[0] != 0 || in.gram_splits[in.count] != in.gram_count)
      invalid("gram_splits must run from 0 to the number of gram_ids (" + std::to_string(in.gram_count) + "), got " + std::to_string(in.gram_splits[0]) +
              " to " + std::to_string(in.gram_splits[in.count]));
    for (int64_t i = 0; i < in.count; ++i)
      if (in.gram_splits[i] > in.gram_splits[i + 1])
        invalid("gram_splits must ascend, got " + std::to_string(in.gram_splits[i]) + " then " + std::to_string(in.gram_splits[i + 1]) + " in row " +
                std::to_string(i));
  }
  if (model_.mall.present() && in.mall_ids != nullptr && in.mall_lengths == nullptr) invalid("mall_lengths is needed with mall_ids");
}

// Features of one row.
void Scorer::row_features(const Inputs& in, std::size_t row, float* out) const {
  const auto branch = [&](const Branch& b, const char* name, const int32_t* ids, int64_t width, const int32_t* lengths) {
    const int32_t length = ids == nullptr ? 0 : checked_length(name, lengths, width, row);
    const int32_t* tokens = ids == nullptr ? nullptr : ids + static_cast<int64_t>(row) * width;
    check_ids(name, tokens, length, model_.vocabulary, row);
    const auto run = b.table.element == Element::kF32 ? kernel_->conv_f32 : kernel_->conv_i8;
    for (const ConvLayout& c : b.convs) {
      const std::size_t at = static_cast<std::size_t>(c.feature - b.convs.front().feature);
      run({b.table.at(c.offset), b.token_stride, c.width, c.padded, b.scale.size() ? b.scale.data() + at : nullptr, b.bias.data() + at}, tokens, length,
          out + c.feature);
    }
  };
  branch(model_.title, "title", in.title_ids, in.title_width, in.title_lengths);
  if (model_.bag.present()) {
    const Bag& bag = model_.bag;
    const int32_t* grams = in.gram_ids + in.gram_splits[row];
    const int64_t count = in.gram_splits[row + 1] - in.gram_splits[row];
    check_ids("gram", grams, count, bag.buckets, row);
    const auto run = bag.table.element == Element::kF32 ? kernel_->bag_f32 : kernel_->bag_i8;
    run({bag.table.at(0), bag.columns, bag.scale.data(), bag.bias.data()}, grams, count, out + bag.feature);
  }
  if (model_.mall.present()) branch(model_.mall, "mall", in.mall_ids, in.mall_width, in.mall_lengths);
}

// What the head reads for rows [begin, end), and the product it then is.
TextCnnProduct Scorer::head_input(const Inputs& in, std::size_t begin, std::size_t end, Scratch& scratch) const {
  const auto depth = static_cast<std::size_t>(model_.depth);
  const bool int8 = model_.mode == Mode::kInt8, low_rank = model_.fc.present();
  const std::size_t rows = end - begin;
  scratch.reserve(model_);
  for (std::size_t i = 0; i < rows; ++i) {
    float* features = scratch.features.data() + (int8 ? 0 : i * depth);
    row_features(in, begin + i, features);
    if (int8) scratch.scale[i] = kernel_->quantize(features, model_.depth, scratch.codes.data() + i * depth);
  }
  if (!low_rank) return product(model_.head, int8 ? static_cast<const void*>(scratch.codes.data()) : scratch.features.data(), rows, scratch);

  const auto hidden = static_cast<std::size_t>(model_.head.depth);
  const TextCnnProduct first = product(model_.fc, int8 ? static_cast<const void*>(scratch.codes.data()) : scratch.features.data(), rows, scratch);
  (int8 ? kernel_->product_i8 : kernel_->product_f32)(first, scratch.hidden.data(), hidden);
  for (std::size_t i = 0; i < rows * hidden; ++i) scratch.hidden[i] = std::max(scratch.hidden[i], 0.f);
  if (int8)
    for (std::size_t i = 0; i < rows; ++i)
      scratch.scale[i] = kernel_->quantize(scratch.hidden.data() + i * hidden, model_.head.depth, scratch.hidden_codes.data() + i * hidden);
  return product(model_.head, int8 ? static_cast<const void*>(scratch.hidden_codes.data()) : scratch.hidden.data(), rows, scratch);
}

TextCnnProduct Scorer::product(const Dense& dense, const void* rows, std::size_t count, const Scratch& scratch) const {
  const bool int8 = model_.mode == Mode::kInt8;
  return {rows,
          static_cast<std::size_t>(dense.depth),
          static_cast<int>(count),
          dense.depth,
          int8 ? static_cast<const void*>(dense.weights_i8.data()) : dense.weights_f32.data(),
          dense.panels,
          dense.bias.data(),
          scratch.scale.data(),
          dense.scale.data()};
}

void Scorer::block_logits(const Inputs& in, std::size_t begin, std::size_t end, Scratch& scratch) const {
  const TextCnnProduct head = head_input(in, begin, end, scratch);
  const std::size_t columns = static_cast<std::size_t>(model_.head.panels) * kPanel;
  if (scratch.logits.size() == 0) scratch.logits = AlignedBuffer<float>(kBlock * columns);
  (model_.mode == Mode::kInt8 ? kernel_->product_i8 : kernel_->product_f32)(head, scratch.logits.data(), columns);
}

// Rows of a piece of work: as many as the caches like, but so that every thread gets equally many pieces.
std::size_t Scorer::grain(int64_t count, int threads) const {
  const auto slots = static_cast<std::size_t>(resolve_threads(threads));
  const auto rows = static_cast<std::size_t>(count);
  const std::size_t pieces = slots * std::max<std::size_t>(1, (rows + slots * kBlock - 1) / (slots * kBlock));
  return std::clamp<std::size_t>((rows + pieces - 1) / pieces, 1, kBlock);
}

void Scorer::logits(const Inputs& in, int threads, float* out) const {
  check(in);
  const auto classes = static_cast<std::size_t>(model_.classes());
  const std::size_t columns = static_cast<std::size_t>(model_.head.panels) * kPanel;
  parallel_for(static_cast<std::size_t>(in.count), grain(in.count, threads), threads, [&](std::size_t begin, std::size_t end, int) {
    Lease lease(*this);
    block_logits(in, begin, end, *lease);
    for (std::size_t row = begin; row < end; ++row) {
      const float* from = (*lease).logits.data() + (row - begin) * columns;
      std::copy(from, from + classes, out + row * classes);
    }
  });
}

void Scorer::probabilities(const Inputs& in, int threads, float* out) const {
  logits(in, threads, out);
  const auto classes = static_cast<std::size_t>(model_.classes());
  parallel_for(static_cast<std::size_t>(in.count), 64, threads, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t row = begin; row < end; ++row) softmax(out + row * classes, classes);
  });
}

void Scorer::top(const Inputs& in, int k, int threads, int32_t* indices, float* probabilities) const {
  if (k < 1 || k > model_.classes()) invalid("top_k must be from 1 to the number of classes (" + std::to_string(model_.classes()) + "), got " + std::to_string(k));
  check(in);
  const auto wanted = static_cast<std::size_t>(k), classes = static_cast<std::size_t>(model_.classes());
  const std::size_t columns = static_cast<std::size_t>(model_.head.panels) * kPanel;
  parallel_for(static_cast<std::size_t>(in.count), grain(in.count, threads), threads, [&](std::size_t begin, std::size_t end, int) {
    Lease lease(*this);
    Scratch& scratch = *lease;
    if (k > kTextCnnMaxTop) {
      block_logits(in, begin, end, scratch);
      std::vector<int32_t> order(classes);
      for (std::size_t row = begin; row < end; ++row) {
        float* values = scratch.logits.data() + (row - begin) * columns;
        softmax(values, classes);
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int32_t a, int32_t b) { return values[a] != values[b] ? values[a] > values[b] : a < b; });
        for (std::size_t j = 0; j < wanted; ++j) {
          indices[row * wanted + j] = order[j];
          probabilities[row * wanted + j] = values[order[j]];
        }
      }
      return;
    }
    const TextCnnProduct head = head_input(in, begin, end, scratch);
    for (std::size_t i = 0; i < end - begin; ++i) {
      TextCnnTop& top = scratch.tops[i];
      std::fill(top.sums, top.sums + 16, 0.f);
      top.threshold = -std::numeric_limits<float>::infinity();
      top.reference = 0;
      top.k = k;
      top.found = 0;
    }
    (model_.mode == Mode::kInt8 ? kernel_->top_i8 : kernel_->top_f32)(head, scratch.tops.data());
    for (std::size_t row = begin; row < end; ++row) {
      const TextCnnTop& top = scratch.tops[row - begin];
      const float scale = 1.f / std::accumulate(top.sums, top.sums + 16, 0.f);
      for (std::size_t j = 0; j < wanted; ++j) {
        indices[row * wanted + j] = top.indices[j];
        probabilities[row * wanted + j] = std::exp(top.values[j] - top.reference) * scale;
      }
    }
  });
}

}  // namespace aitems::textcnn
