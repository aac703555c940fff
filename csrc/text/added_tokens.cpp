#include "text/added_tokens.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "text/unicode.hpp"

namespace aitems::text {

AddedTokens::AddedTokens(const std::vector<AddedTokenSpec>& specs, bool normalized, const Normalizer& normalizer) {
  for (const AddedTokenSpec& spec : specs) {
    if (spec.content.empty()) throw Error(ErrorKind::kTokenizerFormat, "an added token has no content");
    if (spec.normalized != normalized) continue;
    Text text, scratch;
    text.cps = to_code_points(spec.content);
    if (normalized) normalizer.apply(text, scratch);
    if (text.cps.empty()) continue;  // nothing of it is left in a normalised text either
    contents_.emplace_back();
    for (std::uint32_t cp : text.cps) append_utf8(cp, contents_.back());
    by_first_[text.cps[0]].push_back({text.cps, spec});
  }
  for (auto& [first, tokens] : by_first_)
    std::stable_sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) { return a.text.size() > b.text.size(); });
}

void AddedTokens::cut(const Text& text, std::uint32_t begin, std::uint32_t end, std::vector<Piece>& out) const {
  const Unicode& unicode = Unicode::get();
  const auto is = [&](std::uint32_t at, std::uint32_t flag) { return (unicode.flags(text.cps[at]) & flag) != 0; };
  std::uint32_t done = begin;
  for (std::uint32_t i = begin; i < end && !by_first_.empty();) {
    const auto found = by_first_.find(text.cps[i]);
    const Token* token = nullptr;
    if (found != by_first_.end())
      for (const Token& candidate : found->second)
        if (candidate.text.size() <= end - i && std::equal(candidate.text.begin(), candidate.text.end(), text.cps.begin() + i)) {
          token = &candidate;
          break;
        }
    if (!token) {
      ++i;
      continue;
    }
    std::uint32_t start = i, stop = i + static_cast<std::uint32_t>(token->text.size());
    i = stop;
    if (token->spec.single_word && ((start > begin && is(start - 1, kWordChar)) || (stop < end && is(stop, kWordChar)))) continue;
    if (token->spec.lstrip)
      while (start > done && is(start - 1, kSpace)) --start;
    if (token->spec.rstrip)
      while (stop < end && is(stop, kSpace)) ++stop;
    if (done < start) out.push_back({done, start});
    out.push_back({start, stop, token->spec.id});
    done = stop;
    i = std::max(i, stop);
  }
  if (done < end) out.push_back({done, end});
}

}  // namespace aitems::text
