// What a classifier that is not sure of a leaf may still say: the deepest category above the leaf that is sure enough.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace aitems::category {

// The labels as leaves of a tree. Put in tree order, the labels below any node stand side by side.
struct TreeSpec {
  std::vector<int32_t> order;                // labels in tree order
  std::vector<int32_t> node_begin, node_end; // of each node, its labels: order[begin .. end)
  std::vector<int32_t> above;                // (labels, depth): the nodes above each label, parent first, -1 behind the top
  std::vector<float> thresholds;             // one a label: sure is a probability of at least this
};

class Hedge {
 public:
  // Throws InvalidInput where the parts do not fit one another.
  explicit Hedge(TreeSpec spec);

  struct Sure {
    int32_t node = -1;  // -1: none
    float probability = 0;
  };
  // `logits`: those of all labels; overwritten. The deepest node above `label` whose probability, the sum over its labels, reaches
  // the label's threshold.
  Sure above(float* logits, int32_t label) const;
  // Row by row; `logits` (rows, labels) is overwritten.
  void above(float* logits, const int32_t* labels, std::size_t rows, int threads, Sure* out) const;

  std::size_t labels() const { return spec_.order.size(); }
  std::size_t nodes() const { return spec_.node_begin.size(); }
  float threshold(int32_t label) const { return spec_.thresholds[static_cast<std::size_t>(label)]; }
  bool flat() const { return depth_ == 0; }

 private:
  TreeSpec spec_;
  std::size_t depth_ = 0;
};

}  // namespace aitems::category
