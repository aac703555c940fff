#include "text/keywords.hpp"

#include <algorithm>
#include <map>

#include "base/error.hpp"
#include "text/unicode.hpp"

namespace aitems::text {
namespace {

bool is_tail(std::uint8_t byte) { return (byte & 0xC0) == 0x80; }

// Whether the characters before and after a position are both word characters. The text is well formed.
bool inside_word(const std::uint8_t* text, std::size_t size, std::size_t at) {
  if (at == 0 || at == size) return false;
  std::size_t before = at - 1;
  while (before > 0 && is_tail(text[before])) --before;
  bool bad = false;
  const std::uint8_t *left = text + before, *right = text + at;
  const Unicode& unicode = Unicode::get();
  return (unicode.flags(decode_utf8(left, text + size, bad)) & kWordChar) && (unicode.flags(decode_utf8(right, text + size, bad)) & kWordChar);
}

}  // namespace

KeywordRules::KeywordRules(const std::vector<KeywordSpec>& specs, const Normalizer& normalizer) {
  std::map<std::string, std::vector<std::int32_t>> merged;  // the same keyword may be given for several categories
  std::map<std::string, bool> everywhere;
  for (const KeywordSpec& spec : specs) {
    Text text, scratch;
    text.cps = to_code_points(spec.keyword);
    normalizer.apply(text, scratch);
    std::string normalized;
    for (std::uint32_t cp : text.cps) append_utf8(cp, normalized);
    if (normalized.empty()) throw Error(ErrorKind::kInvalidInput, "keyword '" + spec.keyword + "' is empty after normalisation");
    auto& categories = merged[normalized];
    categories.insert(categories.end(), spec.categories.begin(), spec.categories.end());
    everywhere[normalized] |= spec.categories.empty();
  }
  std::vector<std::pair<std::string, std::int32_t>> entries;
  for (auto& [keyword, categories] : merged) {
    if (everywhere[keyword]) categories.clear();
    std::sort(categories.begin(), categories.end());
    first_bytes_[static_cast<std::uint8_t>(keyword[0])] = true;
    entries.emplace_back(keyword, static_cast<std::int32_t>(categories_.size()));
    categories_.push_back(std::move(categories));
  }
  trie_ = Trie(std::move(entries));
}

std::size_t KeywordRules::match(const std::uint8_t* text, std::size_t size, std::size_t at, std::int32_t category) const {
  if (!first_bytes_[text[at]]) return 0;
  std::size_t longest = 0;
  std::int32_t node = Trie::kRoot;
  for (std::size_t i = at; i < size && (node = trie_.step(node, text[i])) >= 0; ++i) {
    const std::int32_t value = trie_.value(node);
    if (value < 0) continue;
    const auto& categories = categories_[static_cast<std::size_t>(value)];
    const bool applies = categories.empty() || std::binary_search(categories.begin(), categories.end(), category);
    if (applies && !inside_word(text, size, i + 1)) longest = i + 1 - at;
  }
  return longest && !inside_word(text, size, at) ? longest : 0;
}

bool KeywordRules::found(const std::uint8_t* text, std::size_t size, std::int32_t category) const {
  for (std::size_t at = 0; at < size; ++at)
    if (!is_tail(text[at]) && match(text, size, at, category)) return true;
  return false;
}

void KeywordRules::remove(Text& text, std::vector<Piece>& pieces, std::int32_t category, Text& scratch) const {
  std::string bytes;
  std::vector<std::size_t> starts;  // of each code point of the piece
  Rewriter rewriter(text, scratch);
  std::uint32_t done = 0;
  for (Piece& piece : pieces) {
    rewriter.skip(piece.begin - done);
    done = piece.end;
    const auto begin = static_cast<std::uint32_t>(scratch.cps.size());
    bytes.clear();
    starts.clear();
    for (std::uint32_t i = piece.begin; i < piece.end; ++i) {
      starts.push_back(bytes.size());
      append_utf8(text.cps[i], bytes);
    }
    starts.push_back(bytes.size());
    const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
    for (std::size_t i = 0; i + 1 < starts.size();) {
      const std::size_t length = piece.added >= 0 ? 0 : match(data, bytes.size(), starts[i], category);
      if (!length) {
        rewriter.emit(text.cps[piece.begin + i], 0);
        ++i;
        continue;
      }
      std::size_t j = i + 1;
      while (starts[j] < starts[i] + length) ++j;
      rewriter.emit(' ', -static_cast<int>(j - i - 1));
      i = j;
    }
    piece.begin = begin;
    piece.end = static_cast<std::uint32_t>(scratch.cps.size());
  }
  std::swap(text, scratch);
}

}  // namespace aitems::text
