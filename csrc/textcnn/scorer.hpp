// Scores rows with a Model. Checks every input, splits the rows over threads, holds the scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "textcnn/model.hpp"

namespace aitems::textcnn {

// One batch. `*_ids` are (count, width), of which the first `*_lengths[i]` of row i count. mall_ids may be null: no mall path is known.
struct Inputs {
  int64_t count = 0;
  const int32_t* title_ids = nullptr;
  int64_t title_width = 0;
  const int32_t* title_lengths = nullptr;
  const int32_t* gram_ids = nullptr;  // flat
  int64_t gram_count = 0;
  const int64_t* gram_splits = nullptr;  // count + 1; null where the model has no bag
  const int32_t* mall_ids = nullptr;
  int64_t mall_width = 0;
  const int32_t* mall_lengths = nullptr;
};

class Scorer {
 public:
  explicit Scorer(Model model);
  ~Scorer();

  const Model& model() const { return model_; }
  // The k most probable classes of each row, most probable first, ties: lower index first. Both outputs are (count, k).
  void top(const Inputs& inputs, int k, int threads, int32_t* indices, float* probabilities) const;
  // All logits or all probabilities, (count, classes).
  void logits(const Inputs& inputs, int threads, float* out) const;
  void probabilities(const Inputs& inputs, int threads, float* out) const;

 private:
  struct Scratch;
  class Lease;
  void check(const Inputs& inputs) const;
  void row_features(const Inputs& inputs, std::size_t row, float* out) const;
  TextCnnProduct head_input(const Inputs& inputs, std::size_t begin, std::size_t end, Scratch& scratch) const;
  TextCnnProduct product(const Dense& dense, const void* rows, std::size_t count, const Scratch& scratch) const;
  void block_logits(const Inputs& inputs, std::size_t begin, std::size_t end, Scratch& scratch) const;
  std::size_t grain(int64_t count, int threads) const;

  Model model_;
  const TextCnnKernels* kernel_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> free_;
};

}  // namespace aitems::textcnn
