// Tokens that are found in the text before the model sees it ("[UNK]", "<s>", ...). Exact path: on code points.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/normalizer.hpp"
#include "text/text.hpp"

namespace aitems::text {

struct AddedTokenSpec {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false;
};

class AddedTokens {
 public:
  // Keeps the tokens whose `normalized` equals the argument; those that are normalised first.
  AddedTokens(const std::vector<AddedTokenSpec>& specs, bool normalized, const Normalizer& normalizer);

  bool empty() const { return by_first_.empty(); }
  // Cuts a range of the text, leftmost match first and of those the longest; appends pieces in order.
  void cut(const Text& text, std::uint32_t begin, std::uint32_t end, std::vector<Piece>& out) const;
  // All tokens in UTF-8, as they stand in a text.
  const std::vector<std::string>& contents() const { return contents_; }

 private:
  struct Token {
    std::vector<std::uint32_t> text;
    AddedTokenSpec spec;
  };
  std::unordered_map<std::uint32_t, std::vector<Token>> by_first_;  // longest first
  std::vector<std::string> contents_;
};

}  // namespace aitems::text
