// The whole category classifier without Python: titles and mall categories -> leaves with probabilities, or "not sure".
// It answers as aitems_engine.category.classifier.CategoryClassifier does over the native scorer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "category/hedge.hpp"
#include "text/tokenizer.hpp"
#include "textcnn/scorer.hpp"

namespace aitems::category {

struct ClassifierSpec {
  text::TokenizerSpec tokenizer;
  textcnn::Tensors tensors;  // views of memory that lives until the classifier is made
  int64_t max_title_length = 0, max_mall_length = 0;
  int32_t gram_min = 0, gram_max = 0;
  int64_t gram_buckets = 0;
  std::vector<std::string> leaf_ids, paths;     // one a label
  std::vector<std::string> tops;                // path of the top category, one a label
  std::vector<std::string> node_ids, node_paths;  // one a node of the tree
  TreeSpec tree;
  std::string bundle_digest;
};

// Answers of a batch, row by row.
struct Answers {
  enum Cause : uint8_t { kNone, kEmptyTitle, kLowConfidence };
  std::size_t rows = 0, k = 0;
  std::vector<int32_t> labels;       // (rows, k), best first
  std::vector<float> probabilities;  // (rows, k)
  std::vector<uint8_t> abstained;
  std::vector<Cause> causes;
  std::vector<Hedge::Sure> sure;
};

class Classifier {
 public:
  // Throws where the parts do not belong together.
  Classifier(ClassifierSpec spec, textcnn::Mode mode, Isa isa);

  // `malls`: one a title, or none at all. A mall category that is not there is unknown; one that is there is read even when
  // empty, with the tokeniser's template.
  Answers classify(std::span<const text::TextRef> titles, std::span<const std::optional<text::TextRef>> malls, int k, int threads) const;
  // Of a row: paths, cause, the sure parent and the bundle, as JSON; of the paths the first k.
  std::string detail(const Answers& answers, std::size_t row, std::size_t k) const;

  std::size_t labels() const { return spec_.leaf_ids.size(); }
  const std::string& leaf_id(int32_t label) const { return spec_.leaf_ids[static_cast<std::size_t>(label)]; }

 private:
  std::string cause(const Answers& answers, std::size_t row) const;
  void hedge(const textcnn::Inputs& inputs, int threads, Answers& answers) const;

  ClassifierSpec spec_;  // without what tokeniser, scorer and tree have taken over
  text::Tokenizer tokenizer_;
  textcnn::Scorer scorer_;
  Hedge hedge_;
  int32_t empty_length_ = 0;  // tokens of a title without text: 0, or those of the tokeniser's template
  std::vector<std::string> json_paths_;
  std::string json_digest_;
};

// Text as a JSON string, quotes included.
std::string json_string(const std::string& text);

}  // namespace aitems::category
