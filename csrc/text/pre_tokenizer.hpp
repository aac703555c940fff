// The pre-tokenisers of a tokenizer.json on the exact path: they cut a Text into pieces (words) for the model.
#pragma once

#include <string>
#include <vector>

#include "text/normalizer.hpp"
#include "text/text.hpp"

namespace aitems::text {

class PreTokenizer {
 public:
  explicit PreTokenizer(const std::vector<ComponentSpec>& specs);

  // Cuts every piece that is not an added token. May rewrite the text (Metaspace, prefix spaces).
  void apply(Text& text, std::vector<Piece>& pieces, Text& scratch) const;

  enum class Kind { kBert, kWhitespace, kWhitespaceSplit, kPunctuation, kDigits, kMetaspace, kPrefixSpace, kSplitGpt2,
                    kSplitCl100k, kSplitLiteral };
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    Kind kind;
    std::vector<std::uint32_t> text;  // Metaspace: the replacement; kSplitLiteral: the pattern
    Behavior behavior = Behavior::kIsolated;
    std::int64_t flags = 0;
  };
  const std::vector<Step>& steps() const { return steps_; }

 private:
  std::vector<Step> steps_;
};

}  // namespace aitems::text
