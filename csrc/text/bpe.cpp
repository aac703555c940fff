// Byte pair encoding: starts from characters (or bytes) and always joins the pair with the lowest rank, leftmost first.
// Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016); byte level as in GPT-2.
#include <algorithm>

#include "base/error.hpp"
#include "text/model.hpp"

namespace aitems::text {
namespace {

class Bpe final : public Model {
 public:
  explicit Bpe(const ModelSpec& spec)
      : prefix_(spec.prefix), suffix_(spec.suffix), unk_(spec.unk_id), fuse_unk_(spec.fuse_unk),
        byte_fallback_(spec.byte_fallback), ignore_merges_(spec.ignore_merges), byte_level_(spec.byte_level) {
    Vocabulary tokens;
    for (const auto& entry : spec.vocab)
      if (!entry.first.empty()) tokens.push_back(entry);
    trie_ = Trie(std::move(tokens));
    if (byte_fallback_)
      for (int b = 0; b < 256; ++b) {
        constexpr char kHex[] = "0123456789ABCDEF";
        const std::string token = {'<', '0', 'x', kHex[b >> 4], kHex[b & 15], '>'};
        bytes_[b] = trie_.find(token);
      }
    const std::size_t count = spec.merges.size() / 3;
    std::size_t capacity = 16;
    while (capacity < 2 * count) capacity *= 2;
    mask_ = capacity - 1;
    merges_.assign(capacity, {kNoPair, 0, -1});
    for (std::size_t rank = 0; rank < count; ++rank) {
      const std::uint64_t pair = key(spec.merges[3 * rank], spec.merges[3 * rank + 1]);
      Entry& entry = merges_[slot_of(pair)];
      entry = {pair, static_cast<std::uint32_t>(rank), spec.merges[3 * rank + 2]};  // of equal pairs the last one counts
    }
  }

  void encode(const std::uint8_t* word, std::size_t size, WordTokens& out) const override {
    out.clear();
    if (ignore_merges_) {
      const std::int32_t whole = trie_.find(word, size);
      if (whole >= 0) return out.push(whole, size);
    }
    out.symbols.clear();
    split(word, size, out.symbols);
    if (out.symbols.size() > 1) {
      if (out.symbols.size() <= kShortWord) merge_short(out.symbols);
      else merge_long(out.symbols, out.heap);
    }
    for (const auto& symbol : out.symbols)
      if (symbol.length) out.push(symbol.id, symbol.length);
  }

 private:
  static constexpr std::uint64_t kNoPair = ~std::uint64_t{0};
  static constexpr std::size_t kShortWord = 48;  // below, scanning all pairs is faster than a heap
  struct Entry {
    std::uint64_t pair;
    std::uint32_t rank;
    std::int32_t id;
  };

  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }
  std::size_t slot_of(std::uint64_t pair) const {
    std::size_t slot = static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15ull) >> 20) & mask_;
    while (merges_[slot].pair != pair && merges_[slot].pair != kNoPair) slot = (slot + 1) & mask_;
    return slot;
  }
  const Entry* find(std::int32_t left, std::int32_t right) const {
    const Entry& entry = merges_[slot_of(key(left, right))];
    return entry.id >= 0 ? &entry : nullptr;
  }

  // The initial symbols: one a character (a byte when byte level), unknown ones as the options say.
  void split(const std::uint8_t* word, std::size_t size, std::vector<WordTokens::Symbol>& symbols) const {
    const auto push = [&](std::int32_t id, std::size_t length) {
      symbols.push_back({id, 0, 0, static_cast<std::uint32_t>(length)});
    };
    std::size_t unknown = 0;  // bytes of the unknown token that is not pushed yet
    for (std::size_t at = 0; at < size;) {
      std::size_t step = byte_level_ || word[at] < 0x80 ? 1 : word[at] < 0xE0 ? 2 : word[at] < 0xF0 ? 3 : 4;
      const bool first = at == 0, last = at + step == size;
      std::int32_t id;
      std::string decorated;
      if ((!first && !prefix_.empty()) || (last && !suffix_.empty())) {
        if (!first) decorated += prefix_;
        decorated.append(reinterpret_cast<const char*>(word) + at, step);
        if (last) decorated += suffix_;
        id = trie_.find(decorated);
      } else {
        id = trie_.find(word + at, step);
      }
      if (id >= 0) {
        if (unknown) push(unk_, unknown);
        unknown = 0;
        push(id, step);
      } else if (byte_fallback_ && push_bytes(word + at, step, decorated, symbols)) {
        // an unknown token before it stays pending, as in the reference
      } else if (unk_ >= 0) {
        if (unknown && !fuse_unk_) {
          push(unk_, unknown);
          unknown = 0;
        }
        unknown += step;
      }
      at += step;
    }
    if (unknown) push(unk_, unknown);
    for (std::size_t i = 0; i < symbols.size(); ++i) {
      symbols[i].prev = static_cast<std::int32_t>(i) - 1;
      symbols[i].next = i + 1 < symbols.size() ? static_cast<std::int32_t>(i) + 1 : -1;
    }
  }

  bool push_bytes(const std::uint8_t* at, std::size_t step, const std::string& decorated,
                  std::vector<WordTokens::Symbol>& symbols) const {
    const auto* begin = decorated.empty() ? at : reinterpret_cast<const std::uint8_t*>(decorated.data());
    const auto* end = decorated.empty() ? at + step : begin + decorated.size();
    if (!std::all_of(begin, end, [&](std::uint8_t b) { return bytes_[b] >= 0; })) return false;
    for (; begin < end; ++begin) symbols.push_back({bytes_[*begin], 0, 0, 1});
    return true;
  }

  void merge_short(std::vector<WordTokens::Symbol>& symbols) const {
    // ranks[i]: rank of the pair (i, i + 1), kept beside the symbols and updated around each merge
    std::uint32_t ranks[kShortWord];
    std::int32_t ids[kShortWord];
    constexpr std::uint32_t kNone = ~std::uint32_t{0};
    std::size_t n = symbols.size();
    const auto rate = [&](std::size_t i) {
      const Entry* entry = find(symbols[i].id, symbols[i + 1].id);
      ranks[i] = entry ? entry->rank : kNone;
      ids[i] = entry ? entry->id : -1;
    };
    for (std::size_t i = 0; i + 1 < n; ++i) rate(i);
    while (n > 1) {
      std::size_t at = 0;
      for (std::size_t i = 1; i + 1 < n; ++i)
        if (ranks[i] < ranks[at]) at = i;
      if (ranks[at] == kNone) break;
      symbols[at].id = ids[at];
      symbols[at].length += symbols[at + 1].length;
      for (std::size_t i = at + 1; i + 1 < n; ++i) symbols[i] = symbols[i + 1];
      for (std::size_t i = at + 1; i + 2 < n; ++i) {
        ranks[i] = ranks[i + 1];
        ids[i] = ids[i + 1];
      }
      --n;
      if (at > 0) rate(at - 1);
      if (at + 1 < n) rate(at);
    }
    symbols.resize(n);
  }

  void merge_long(std::vector<WordTokens::Symbol>& symbols, std::vector<WordTokens::Merge>& heap) const {
    const auto later = [](const WordTokens::Merge& a, const WordTokens::Merge& b) {
      return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
    };
    heap.clear();
    const auto offer = [&](std::int32_t left, std::int32_t right) {
      if (left < 0 || right < 0) return;
      const Entry* entry = find(symbols[static_cast<std::size_t>(left)].id, symbols[static_cast<std::size_t>(right)].id);
      if (!entry) return;
      heap.push_back({entry->rank, static_cast<std::uint32_t>(left), entry->id});
      std::push_heap(heap.begin(), heap.end(), later);
    };
    for (std::int32_t i = 0; i + 1 < static_cast<std::int32_t>(symbols.size()); ++i) offer(i, i + 1);
    while (!heap.empty()) {
      const WordTokens::Merge top = heap.front();
      std::pop_heap(heap.begin(), heap.end(), later);
      heap.pop_back();
      auto& left = symbols[top.position];
      if (!left.length || left.next < 0) continue;  // swallowed meanwhile
      auto& right = symbols[static_cast<std::size_t>(left.next)];
      const Entry* entry = find(left.id, right.id);
      if (!entry || entry->id != top.id) continue;
      left.id = top.id;
      left.length += right.length;
      left.next = right.next;
      right.length = 0;
      if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].prev = static_cast<std::int32_t>(top.position);
      offer(left.prev, static_cast<std::int32_t>(top.position));
      offer(static_cast<std::int32_t>(top.position), left.next);
    }
  }

  Trie trie_;
  std::vector<Entry> merges_;
  std::size_t mask_ = 0;
  std::string prefix_, suffix_;
  std::int32_t bytes_[256] = {};
  std::int32_t unk_;
  bool fuse_unk_, byte_fallback_, ignore_merges_, byte_level_;
};

}  // namespace

std::unique_ptr<Model> make_bpe(const ModelSpec& spec) { return std::make_unique<Bpe>(spec); }

}  // namespace aitems::text
