// WordPiece: the longest known piece first; a word with an unknown part is one unknown token.
// Source: Wu et al., "Google's Neural Machine Translation System" (2016), as in BERT.
#include "base/error.hpp"
#include "text/model.hpp"

namespace aitems::text {
namespace {

class WordPiece final : public Model {
 public:
  explicit WordPiece(const ModelSpec& spec) : unk_(spec.unk_id), max_chars_(static_cast<std::size_t>(spec.max_word_chars)) {
    if (unk_ < 0) throw Error(ErrorKind::kTokenizerFormat, "WordPiece needs its unk_token in the vocabulary");
    Vocabulary continuing, initial;
    for (const auto& [token, id] : spec.vocab) {
      if (token.empty()) continue;
      initial.emplace_back(token, id);
      if (token.size() > spec.prefix.size() && token.compare(0, spec.prefix.size(), spec.prefix) == 0)
        continuing.emplace_back(token.substr(spec.prefix.size()), id);
    }
    initial_ = Trie(std::move(initial));
    continuing_ = Trie(std::move(continuing));
  }

  void encode(const std::uint8_t* word, std::size_t size, WordTokens& out) const override {
    out.clear();
    std::size_t chars = size;
    if (size > max_chars_) {
      chars = 0;
      for (std::size_t i = 0; i < size; ++i) chars += (word[i] & 0xC0) != 0x80;
    }
    const Trie* trie = &initial_;
    for (std::size_t at = 0; at < size; trie = &continuing_) {
      std::int32_t node = Trie::kRoot, id = -1;
      std::size_t end = at;
      if (chars <= max_chars_)
        for (std::size_t i = at; i < size && (node = trie->step(node, word[i])) >= 0; ++i)
          if (trie->value(node) >= 0) {
            id = trie->value(node);
            end = i + 1;
          }
      if (id < 0) {
        out.clear();
        out.push(unk_, size);
        return;
      }
      out.push(id, end - at);
      at = end;
    }
  }

 private:
  Trie initial_, continuing_;
  std::int32_t unk_;
  std::size_t max_chars_;
};

}  // namespace

std::unique_ptr<Model> make_word_piece(const ModelSpec& spec) { return std::make_unique<WordPiece>(spec); }

std::unique_ptr<Model> make_model(const ModelSpec& spec) {
  if (spec.type == "WordPiece") return make_word_piece(spec);
  if (spec.type == "BPE") return make_bpe(spec);
  if (spec.type == "Unigram") return make_unigram(spec);
  throw Error(ErrorKind::kTokenizerFormat, "model '" + spec.type + "' is not supported (WordPiece, BPE and Unigram are)");
}

}  // namespace aitems::text
