// What cuts a word into tokens. One file a model: word_piece.cpp, bpe.cpp, unigram.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/trie.hpp"

namespace aitems::text {

// Tokens of one word and their lengths in bytes of the word (for offsets), with working memory that is kept between words.
struct WordTokens {
  std::vector<std::int32_t> ids;
  std::vector<std::uint32_t> bytes;
  void clear() {
    ids.clear();
    bytes.clear();
  }
  void push(std::int32_t id, std::size_t length) {
    ids.push_back(id);
    bytes.push_back(static_cast<std::uint32_t>(length));
  }

  struct Symbol {
    std::int32_t id;
    std::int32_t prev, next;
    std::uint32_t length;
  };
  struct Merge {
    std::uint32_t rank, position;
    std::int32_t id;
  };
  struct Best {
    double score;
    std::int32_t begin, id;
  };
  std::vector<Symbol> symbols;
  std::vector<Merge> heap;
  std::vector<Best> best;
};

class Model {
 public:
  virtual ~Model() = default;
  // Replaces `out` by the tokens of a word (valid UTF-8, or raw bytes for a byte-level model), 0 < size < 2^31.
  virtual void encode(const std::uint8_t* word, std::size_t size, WordTokens& out) const = 0;
};

using Vocabulary = std::vector<std::pair<std::string, std::int32_t>>;

struct ModelSpec {
  std::string type;                 // "WordPiece", "BPE", "Unigram"
  Vocabulary vocab;
  std::int32_t unk_id = -1;         // -1: the model has no unknown token
  std::string prefix, suffix;       // continuing_subword_prefix, end_of_word_suffix
  std::int64_t max_word_chars = 100;
  bool fuse_unk = false, byte_fallback = false, ignore_merges = false, byte_level = false;
  std::vector<double> scores;       // Unigram: one an entry of vocab
  std::vector<std::int32_t> merges; // BPE: triples (left id, right id, merged id), by rank
};

std::unique_ptr<Model> make_word_piece(const ModelSpec& spec);
std::unique_ptr<Model> make_bpe(const ModelSpec& spec);
std::unique_ptr<Model> make_unigram(const ModelSpec& spec);
std::unique_ptr<Model> make_model(const ModelSpec& spec);

}  // namespace aitems::text
