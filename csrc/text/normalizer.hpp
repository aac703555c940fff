// The normalisers of a tokenizer.json, applied in order to a Text. This is the exact path: code point by code point, with
// alignment when it is tracked. Knows no vocabulary.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/text.hpp"

namespace aitems::text {

// One component as read from the file. What `a`, `b` and `flags` mean depends on the kind; see make_step in normalizer.cpp
// and pre_tokenizer.cpp.
struct ComponentSpec {
  std::string kind, a, b;
  std::int64_t flags = 0;
};

class Normalizer {
 public:
  explicit Normalizer(const std::vector<ComponentSpec>& specs);

  // Normalises in place; `scratch` only saves allocations.
  void apply(Text& text, Text& scratch) const;
  bool empty() const { return steps_.empty(); }
  // Normalises one code point as if it stood alone. Returns true when the result is the same in any context, so that texts
  // made of such code points can be normalised one at a time.
  bool apply_isolated(std::uint32_t cp, std::vector<std::uint32_t>& out) const;

 private:
  enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kLowercase, kStripAccents, kBertClean, kBertChinese, kBertAccents, kStrip,
                    kReplace, kReplaceSpaceRuns, kPrepend };
  struct Step {
    Kind kind;
    std::vector<std::uint32_t> from, to;
    std::int64_t flags = 0;
  };
  static void apply_step(const Step& step, const Text& in, Text& out);

  std::vector<Step> steps_;
};

std::vector<std::uint32_t> to_code_points(const std::string& utf8);

}  // namespace aitems::text
