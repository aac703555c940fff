// Unigram: the split with the highest sum of token scores, found by dynamic programming over the trie.
// Source: Kudo, "Subword Regularization" (2018), as in sentencepiece.
#include <algorithm>
#include <limits>

#include "base/error.hpp"
#include "text/model.hpp"

namespace aitems::text {
namespace {

constexpr double kUnkPenalty = 10.0;

class Unigram final : public Model {
 public:
  explicit Unigram(const ModelSpec& spec) : unk_(spec.unk_id), byte_fallback_(spec.byte_fallback) {
    if (unk_ < 0) throw Error(ErrorKind::kTokenizerFormat, "Unigram needs an unk_id inside its vocabulary");
    Vocabulary tokens;
    double lowest = std::numeric_limits<double>::infinity();
    scores_.resize(spec.vocab.size());
    for (std::size_t i = 0; i < spec.vocab.size(); ++i) {
      lowest = std::min(lowest, spec.scores[i]);
      scores_[i] = spec.scores[i];
      if (!spec.vocab[i].first.empty()) tokens.push_back(spec.vocab[i]);
    }
    trie_ = Trie(std::move(tokens));
    unk_score_ = lowest - kUnkPenalty;
    if (byte_fallback_)
      for (int b = 0; b < 256; ++b) {
        constexpr char kHex[] = "0123456789ABCDEF";
        const std::string token = {'<', '0', 'x', kHex[b >> 4], kHex[b & 15], '>'};
        bytes_[b] = trie_.find(token);
      }
  }

  void encode(const std::uint8_t* word, std::size_t size, WordTokens& out) const override {
    out.clear();
    auto& best = out.best;
    best.assign(size + 1, {0.0, -1, -1});
    for (std::size_t at = 0; at < size;) {
      const std::size_t step = word[at] < 0x80 ? 1 : word[at] < 0xE0 ? 2 : word[at] < 0xF0 ? 3 : 4;
      const double here = best[at].score;
      bool single = false;
      std::int32_t node = Trie::kRoot;
      for (std::size_t i = at; i < size && (node = trie_.step(node, word[i])) >= 0; ++i) {
        const std::int32_t id = trie_.value(node);
        if (id < 0) continue;
        offer(best[i + 1], here + scores_[static_cast<std::size_t>(id)], at, id);
        single |= i + 1 - at == step;
      }
      if (!single) offer(best[at + step], here + unk_score_, at, unk_);
      at += step;
    }
    // Backwards; neighbouring unknown tokens become one, which may spell a known token after all.
    for (std::size_t end = size; end > 0;) {
      const auto node = best[end];
      std::size_t begin = static_cast<std::size_t>(node.begin);
      std::int32_t id = node.id;
      if (id == unk_) {
        while (begin > 0 && best[begin].id == unk_) begin = static_cast<std::size_t>(best[begin].begin);
        push_unknown(word, begin, end, out);
      } else {
        out.push(id, end - begin);
      }
      end = begin;
    }
    std::reverse(out.ids.begin(), out.ids.end());
    std::reverse(out.bytes.begin(), out.bytes.end());
  }

 private:
  static void offer(WordTokens::Best& target, double score, std::size_t begin, std::int32_t id) {
    if (target.begin >= 0 && !(score > target.score)) return;
    target = {score, static_cast<std::int32_t>(begin), id};
  }

  // Pushed in reverse, like everything else on the way back.
  void push_unknown(const std::uint8_t* word, std::size_t begin, std::size_t end, WordTokens& out) const {
    const std::int32_t known = trie_.find(word + begin, end - begin);
    if (known >= 0) return out.push(known, end - begin);
    if (byte_fallback_ && std::all_of(word + begin, word + end, [&](std::uint8_t b) { return bytes_[b] >= 0; })) {
      for (std::size_t i = end; i > begin; --i) out.push(bytes_[word[i - 1]], 1);
      return;
    }
    out.push(unk_, end - begin);
  }

  Trie trie_;
  std::vector<double> scores_;
  std::int32_t bytes_[256] = {};
  std::int32_t unk_;
  double unk_score_ = 0;
  bool byte_fallback_;
};

}  // namespace

std::unique_ptr<Model> make_unigram(const ModelSpec& spec) { return std::make_unique<Unigram>(spec); }

}  // namespace aitems::text
