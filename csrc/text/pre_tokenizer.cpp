#include "text/pre_tokenizer.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "text/unicode.hpp"

namespace aitems::text {
namespace {

using Behavior = PreTokenizer::Behavior;

struct Match {
  std::uint32_t begin, end;
  bool matched;
};

// Turns alternating matches and gaps into pieces, as the reference's SplitDelimiterBehavior does.
void fold(const std::vector<Match>& matches, Behavior behavior, std::vector<Piece>& out) {
  const std::size_t first = out.size();
  auto push = [&](const Match& m) { out.push_back({m.begin, m.end}); };
  bool previous = false;
  switch (behavior) {
    case Behavior::kRemoved:
      for (const Match& m : matches)
        if (!m.matched) push(m);
      break;
    case Behavior::kIsolated:
      for (const Match& m : matches) push(m);
      break;
    case Behavior::kContiguous:
    case Behavior::kMergedWithPrevious:
      for (const Match& m : matches) {
        const bool joins = behavior == Behavior::kContiguous ? m.matched == previous : m.matched && !previous;
        if (joins && out.size() > first) out.back().end = m.end;
        else push(m);
        previous = m.matched;
      }
      break;
    case Behavior::kMergedWithNext:
      for (auto m = matches.rbegin(); m != matches.rend(); ++m) {
        if (m->matched && !previous && out.size() > first) out.back().begin = m->begin;
        else push(*m);
        previous = m->matched;
      }
      std::reverse(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
      break;
  }
}

// Every code point for which `test` holds is a match of its own.
template <class Test>
void match_each(const Text& text, const Piece& piece, Test test, std::vector<Match>& out) {
  out.clear();
  std::uint32_t start = piece.begin;
  for (std::uint32_t i = piece.begin; i < piece.end; ++i) {
    if (!test(text.cps[i])) continue;
    if (start < i) out.push_back({start, i, false});
    out.push_back({i, i + 1, true});
    start = i + 1;
  }
  if (start < piece.end) out.push_back({start, piece.end, false});
}

// End of the match of GPT-2's pattern at `i`: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::uint32_t gpt2_match(const Unicode& unicode, const std::uint32_t* cps, std::uint32_t i, std::uint32_t end) {
  const auto kind = [&](std::uint32_t at) {  // letter, number, other, space
    const std::uint32_t f = unicode.flags(cps[at]);
    return f & kLetter ? 0 : f & kNumber ? 1 : f & kSpace ? 3 : 2;
  };
  if (cps[i] == '\'' && i + 1 < end) {
    const std::uint32_t a = cps[i + 1];
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    const std::uint32_t b = i + 2 < end ? cps[i + 2] : 0;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return i + 3;
  }
  const std::uint32_t word = cps[i] == ' ' && i + 1 < end ? i + 1 : i;
  if (const int k = kind(word); k != 3) {
    std::uint32_t j = word + 1;
    while (j < end && kind(j) == k) ++j;
    return j;
  }
  std::uint32_t j = i;
  while (j < end && kind(j) == 3) ++j;
  return j < end && j > i + 1 ? j - 1 : j;  // leave one space for the word that follows
}

// The same for the pattern of cl100k (`most_digits` 3, Llama 3) and Qwen 2 (1):
// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
std::uint32_t cl100k_match(const Unicode& unicode, const std::uint32_t* cps, std::uint32_t i, std::uint32_t end,
                           std::uint32_t most_digits) {
  const auto flag = [&](std::uint32_t at) { return unicode.flags(cps[at]); };
  const auto newline = [&](std::uint32_t at) { return cps[at] == '\r' || cps[at] == '\n'; };
  if (cps[i] == '\'' && i + 1 < end) {
    const auto fold_case = [](std::uint32_t c) { return c == 0x17F ? std::uint32_t{'s'} : c >= 'A' && c <= 'Z' ? c + 32 : c; };
    const std::uint32_t a = fold_case(cps[i + 1]);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    const std::uint32_t b = i + 2 < end ? fold_case(cps[i + 2]) : 0;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return i + 3;
  }
  const auto letters = [&](std::uint32_t from) {
    std::uint32_t j = from;
    while (j < end && (flag(j) & kLetter)) ++j;
    return j;
  };
  if (!newline(i) && !(flag(i) & (kLetter | kNumber)) && i + 1 < end && (flag(i + 1) & kLetter)) return letters(i + 1);
  if (flag(i) & kLetter) return letters(i);
  if (flag(i) & kNumber) {
    std::uint32_t j = i + 1;
    while (j < end && j - i < most_digits && (flag(j) & kNumber)) ++j;
    return j;
  }
  const std::uint32_t word = cps[i] == ' ' && i + 1 < end ? i + 1 : i;
  if (!(flag(word) & (kSpace | kLetter | kNumber))) {
    std::uint32_t j = word + 1;
    while (j < end && !(flag(j) & (kSpace | kLetter | kNumber))) ++j;
    while (j < end && newline(j)) ++j;
    return j;
  }
  std::uint32_t j = i, last_newline = end;
  for (; j < end && (flag(j) & kSpace); ++j)
    if (newline(j)) last_newline = j;
  if (last_newline != end) return last_newline + 1;
  return j < end && j > i + 1 ? j - 1 : j;
}

}  // namespace

PreTokenizer::PreTokenizer(const std::vector<ComponentSpec>& specs) {
  static const std::pair<const char*, Kind> names[] = {
      {"bert", Kind::kBert}, {"whitespace", Kind::kWhitespace}, {"whitespace_split", Kind::kWhitespaceSplit},
      {"punctuation", Kind::kPunctuation}, {"digits", Kind::kDigits}, {"metaspace", Kind::kMetaspace},
      {"prefix_space", Kind::kPrefixSpace}, {"split_gpt2", Kind::kSplitGpt2}, {"split_cl100k", Kind::kSplitCl100k},
      {"split_literal", Kind::kSplitLiteral},
  };
  static const std::pair<const char*, Behavior> behaviors[] = {
      {"Removed", Behavior::kRemoved}, {"Isolated", Behavior::kIsolated}, {"Contiguous", Behavior::kContiguous},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious}, {"MergedWithNext", Behavior::kMergedWithNext},
  };
  for (const ComponentSpec& spec : specs) {
    const auto* kind = std::find_if(std::begin(names), std::end(names), [&](const auto& n) { return spec.kind == n.first; });
    if (kind == std::end(names))
      throw Error(ErrorKind::kTokenizerFormat, "pre_tokenizer '" + spec.kind + "' is not supported");
    Step step{kind->second, to_code_points(spec.a), Behavior::kIsolated, spec.flags};
    if (!spec.b.empty()) {
      const auto* behavior = std::find_if(std::begin(behaviors), std::end(behaviors), [&](const auto& n) { return spec.b == n.first; });
      if (behavior == std::end(behaviors))
        throw Error(ErrorKind::kTokenizerFormat, "split behavior '" + spec.b + "' is not supported");
      step.behavior = behavior->second;
    }
    if ((step.kind == Kind::kSplitLiteral && step.text.empty()) || (step.kind == Kind::kMetaspace && step.text.size() != 1))
      throw Error(ErrorKind::kTokenizerFormat, "pre_tokenizer '" + spec.kind + "' needs a pattern");
    steps_.push_back(std::move(step));
  }
}

void PreTokenizer::apply(Text& text, std::vector<Piece>& pieces, Text& scratch) const {
  const Unicode& unicode = Unicode::get();
  std::vector<Piece> cut;
  std::vector<Match> matches;
  for (const Step& step : steps_) {
    const bool metaspace = step.kind == Kind::kMetaspace;
    if (metaspace || step.kind == Kind::kPrefixSpace) {
      // Metaspace flags: 1 prepend always, 2 prepend to the first piece only, 4 split. Every piece is rewritten.
      const std::uint32_t mark = metaspace ? step.text[0] : std::uint32_t{' '};
      Rewriter rewriter(text, scratch);
      std::uint32_t at = 0;
      for (Piece& piece : pieces) {
        rewriter.skip(piece.begin - at);
        at = piece.end;
        const std::uint32_t begin = static_cast<std::uint32_t>(scratch.cps.size());
        if (piece.added >= 0 || piece.begin == piece.end) {
          for (std::uint32_t i = piece.begin; i < piece.end; ++i) rewriter.emit(text.cps[i], 0);
        } else {
          const std::uint32_t head = text.cps[piece.begin];
          bool prefix = head != mark && !(metaspace && head == ' ');
          if (metaspace) {
            const bool starts_input = text.tracked && text.spans[piece.begin].begin == 0;
            prefix = prefix && ((step.flags & 1) || ((step.flags & 2) && starts_input));
          }
          if (prefix) rewriter.emit(mark, 0);
          for (std::uint32_t i = piece.begin; i < piece.end; ++i) {
            const std::uint32_t cp = metaspace && text.cps[i] == ' ' ? mark : text.cps[i];
            rewriter.emit(cp, prefix && i == piece.begin ? 1 : 0);
          }
        }
        piece.begin = begin;
        piece.end = static_cast<std::uint32_t>(scratch.cps.size());
      }
      std::swap(text, scratch);
      if (!metaspace || !(step.flags & 4)) continue;
    }
    cut.clear();
    for (const Piece& piece : pieces) {
      if (piece.added >= 0) {
        cut.push_back(piece);
        continue;
      }
      if (piece.begin == piece.end) continue;
      const auto has = [&](std::uint32_t flag) { return [&unicode, flag](std::uint32_t cp) { return (unicode.flags(cp) & flag) != 0; }; };
      switch (step.kind) {
        case Kind::kMetaspace:
          match_each(text, piece, [&](std::uint32_t cp) { return cp == step.text[0]; }, matches);
          fold(matches, Behavior::kMergedWithNext, cut);
          break;
        case Kind::kBert: {
          std::vector<Piece> words;
          match_each(text, piece, has(kSpace), matches);
          fold(matches, Behavior::kRemoved, words);
          for (const Piece& word : words) {
            match_each(text, word, has(kPunctuation), matches);
            fold(matches, Behavior::kIsolated, cut);
          }
          break;
        }
        case Kind::kWhitespaceSplit:
          match_each(text, piece, has(kSpace), matches);
          fold(matches, Behavior::kRemoved, cut);
          break;
        case Kind::kPunctuation:
          match_each(text, piece, has(kPunctuation), matches);
          fold(matches, step.behavior, cut);
          break;
        case Kind::kDigits:  // flags: 1 each digit on its own
          match_each(text, piece, has(kNumeric), matches);
          fold(matches, step.flags & 1 ? Behavior::kIsolated : Behavior::kContiguous, cut);
          break;
        case Kind::kWhitespace: {  // \w+|[^\w\s]+
          const auto kind = [&](std::uint32_t i) {
            const std::uint32_t f = unicode.flags(text.cps[i]);
            return f & kWordChar ? 1 : f & kSpace ? 0 : 2;
          };
          for (std::uint32_t i = piece.begin; i < piece.end;) {
            std::uint32_t j = i + 1;
            while (j < piece.end && kind(j) == kind(i)) ++j;
            if (kind(i)) cut.push_back({i, j});
            i = j;
          }
          break;
        }
        case Kind::kSplitGpt2:
        case Kind::kSplitCl100k: {
          // Both patterns cover every text, so each match is a piece under "Isolated" and nothing is left between.
          for (std::uint32_t i = piece.begin; i < piece.end;) {
            const std::uint32_t j = step.kind == Kind::kSplitGpt2
                                        ? gpt2_match(unicode, text.cps.data(), i, piece.end)
                                        : cl100k_match(unicode, text.cps.data(), i, piece.end, static_cast<std::uint32_t>(step.flags));
            cut.push_back({i, j});
            i = j;
          }
          break;
        }
        case Kind::kSplitLiteral: {  // flags: 1 inverted
          matches.clear();
          const std::uint32_t n = static_cast<std::uint32_t>(step.text.size());
          std::uint32_t start = piece.begin, i = piece.begin;
          const bool inverted = step.flags & 1;
          while (i + n <= piece.end) {
            if (!std::equal(step.text.begin(), step.text.end(), text.cps.begin() + i)) {
              ++i;
              continue;
            }
            if (start < i) matches.push_back({start, i, inverted});
            matches.push_back({i, i + n, !inverted});
            start = i += n;
          }
          if (start < piece.end) matches.push_back({start, piece.end, inverted});
          fold(matches, step.behavior, cut);
          break;
        }
        case Kind::kPrefixSpace: break;
      }
    }
    pieces.swap(cut);
  }
}

}  // namespace aitems::text
