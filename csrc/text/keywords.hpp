// Keywords that are taken out of normalised texts, depending on a category: the hook for mined "this word misleads in that
// category" rules. One code for training and serving. Knows no tokeniser but its normaliser.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "text/normalizer.hpp"
#include "text/text.hpp"
#include "text/trie.hpp"

namespace aitems::text {

struct KeywordSpec {
  std::string keyword;
  std::vector<std::int32_t> categories;  // codes >= 0; empty = every text, whatever its category
};

class KeywordRules {
 public:
  // Keywords are normalised like texts; one that is empty then is an error.
  KeywordRules(const std::vector<KeywordSpec>& specs, const Normalizer& normalizer);

  // Whether a text of a category (-1 = none) holds a keyword of it.
  bool found(const std::uint8_t* text, std::size_t size, std::int32_t category) const;
  // Replaces each by one space: leftmost first, of those the longest, and only where it does not cut a word (no word
  // character on both sides of either edge). Pieces that are added tokens stay.
  void remove(Text& text, std::vector<Piece>& pieces, std::int32_t category, Text& scratch) const;

 private:
  // Bytes of the keyword at `at`, 0 = none.
  std::size_t match(const std::uint8_t* text, std::size_t size, std::size_t at, std::int32_t category) const;

  Trie trie_;
  std::vector<std::vector<std::int32_t>> categories_;  // of each value of the trie, sorted; empty = every text
  bool first_bytes_[256] = {};
};

}  // namespace aitems::text
