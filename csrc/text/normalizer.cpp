#include "text/normalizer.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "text/unicode.hpp"

namespace aitems::text {
namespace {

struct Decomposed {
  std::uint32_t cp;
  std::uint32_t ccc;
  int change;
};

// NFC, NFD, NFKC, NFKD (Unicode Standard Annex 15) with the change counts that keep the alignment.
void normalization_form(const Text& in, bool compatible, bool composing, Text& out) {
  const Unicode& unicode = Unicode::get();
  std::vector<Decomposed> list;
  std::vector<std::uint32_t> parts;
  list.reserve(in.cps.size() + 16);
  for (std::uint32_t cp : in.cps) {
    parts.clear();
    unicode.decompose(cp, compatible, parts);
    for (std::size_t k = 0; k < parts.size(); ++k)
      list.push_back({parts[k], Unicode::combining_class(unicode.flags(parts[k])), k ? 1 : 0});
  }
  for (std::size_t i = 0; i < list.size();) {
    if (!list[i].ccc) {
      ++i;
      continue;
    }
    std::size_t j = i;
    while (j < list.size() && list[j].ccc) ++j;
    std::stable_sort(list.begin() + static_cast<std::ptrdiff_t>(i), list.begin() + static_cast<std::ptrdiff_t>(j),
                     [](const Decomposed& a, const Decomposed& b) { return a.ccc < b.ccc; });
    i = j;
  }
  if (composing) {
    std::size_t kept = 0;              // list[0, kept) is the result so far
    std::ptrdiff_t starter = -1;       // index in the result of the last starter
    std::uint32_t last_ccc = 0;        // class of the last character kept behind the starter; 0 = none behind it
    for (std::size_t i = 0; i < list.size(); ++i) {
      const Decomposed d = list[i];
      const bool behind = starter >= 0 && static_cast<std::size_t>(starter) + 1 < kept;
      if (starter >= 0 && (!behind || last_ccc < d.ccc)) {
        Decomposed& first = list[static_cast<std::size_t>(starter)];
        if (const std::uint32_t composed = unicode.compose(first.cp, d.cp)) {
          first.cp = composed;
          first.change += d.change - 1;
          continue;
        }
      }
      list[kept++] = d;
      last_ccc = d.ccc;
      if (!d.ccc) starter = static_cast<std::ptrdiff_t>(kept) - 1;
    }
    list.resize(kept);
  }
  Rewriter rewriter(in, out);
  for (const Decomposed& d : list) rewriter.emit(d.cp, d.change);
}

// Keeps the code points without `drop` in their flags (or with keep_all), mapped by `map`.
template <class Keep, class Map>
void filter(const Text& in, Text& out, Keep keep, Map map) {
  Rewriter rewriter(in, out);
  std::size_t i = 0;
  while (i < in.cps.size() && !keep(in.cps[i])) ++i;
  rewriter.skip(i);
  while (i < in.cps.size()) {
    std::size_t next = i + 1;
    while (next < in.cps.size() && !keep(in.cps[next])) ++next;
    rewriter.emit(map(in.cps[i]), -static_cast<int>(next - i - 1));
    i = next;
  }
}

bool is_unicode_form(int kind) { return kind <= 3; }

}  // namespace

std::vector<std::uint32_t> to_code_points(const std::string& utf8) {
  std::vector<std::uint32_t> out;
  const auto* p = reinterpret_cast<const std::uint8_t*>(utf8.data());
  const auto* end = p + utf8.size();
  bool bad = false;
  while (p < end) out.push_back(decode_utf8(p, end, bad));
  return out;
}

Normalizer::Normalizer(const std::vector<ComponentSpec>& specs) {
  static const std::pair<const char*, Kind> names[] = {
      {"nfc", Kind::kNfc}, {"nfd", Kind::kNfd}, {"nfkc", Kind::kNfkc}, {"nfkd", Kind::kNfkd},
      {"lowercase", Kind::kLowercase}, {"strip_accents", Kind::kStripAccents}, {"bert_clean", Kind::kBertClean},
      {"bert_chinese", Kind::kBertChinese}, {"bert_accents", Kind::kBertAccents}, {"strip", Kind::kStrip},
      {"replace", Kind::kReplace}, {"replace_space_runs", Kind::kReplaceSpaceRuns}, {"prepend", Kind::kPrepend},
  };
  for (const ComponentSpec& spec : specs) {
    const auto* found = std::find_if(std::begin(names), std::end(names), [&](const auto& n) { return spec.kind == n.first; });
    if (found == std::end(names))
      throw Error(ErrorKind::kTokenizerFormat, "normalizer '" + spec.kind + "' is not supported");
    if (found->second == Kind::kReplace && spec.a.empty())
      throw Error(ErrorKind::kTokenizerFormat, "normalizer 'Replace' needs a non-empty pattern");
    steps_.push_back({found->second, to_code_points(spec.a), to_code_points(spec.b), spec.flags});
  }
}

void Normalizer::apply_step(const Step& step, const Text& in, Text& out) {
  const Unicode& unicode = Unicode::get();
  const auto flag = [&](std::uint32_t cp) { return unicode.flags(cp); };
  const auto same = [](std::uint32_t cp) { return cp; };
  switch (step.kind) {
    case Kind::kNfc: return normalization_form(in, false, true, out);
    case Kind::kNfd: return normalization_form(in, false, false, out);
    case Kind::kNfkc: return normalization_form(in, true, true, out);
    case Kind::kNfkd: return normalization_form(in, true, false, out);
    case Kind::kLowercase: {
      Rewriter rewriter(in, out);
      for (std::uint32_t cp : in.cps) {
        if (!(flag(cp) & kHasLower)) {
          rewriter.emit(cp, 0);
          continue;
        }
        int change = 0;
        for (std::uint32_t to : unicode.lower(cp)) {
          rewriter.emit(to, change);
          change = 1;
        }
      }
      return;
    }
    case Kind::kStripAccents: return filter(in, out, [&](std::uint32_t cp) { return !(flag(cp) & kAccent); }, same);
    case Kind::kBertAccents: return filter(in, out, [&](std::uint32_t cp) { return !(flag(cp) & kBertAccent); }, same);
    case Kind::kBertClean:
      return filter(in, out, [&](std::uint32_t cp) { return !(flag(cp) & kCleanRemoved); },
                    [&](std::uint32_t cp) { return flag(cp) & kCleanSpace ? std::uint32_t{' '} : cp; });
    case Kind::kBertChinese: {
      Rewriter rewriter(in, out);
      for (std::uint32_t cp : in.cps) {
        if (!(flag(cp) & kChinese)) {
          rewriter.emit(cp, 0);
          continue;
        }
        rewriter.emit(' ', 0);
        rewriter.emit(cp, 1);
        rewriter.emit(' ', 1);
      }
      return;
    }
    case Kind::kStrip: {  // flags: 1 left, 2 right
      std::size_t begin = 0, end = in.cps.size();
      if (step.flags & 1)
        while (begin < end && (flag(in.cps[begin]) & kSpace)) ++begin;
      if (step.flags & 2)
        while (end > begin && (flag(in.cps[end - 1]) & kSpace)) --end;
      Rewriter rewriter(in, out);
      rewriter.skip(begin);
      for (std::size_t i = begin; i < end; ++i) rewriter.emit(in.cps[i], 0);
      return;
    }
    case Kind::kReplace:
    case Kind::kReplaceSpaceRuns: {  // the latter: runs of at least `flags` spaces (U+0020)
      Rewriter rewriter(in, out);
      for (std::size_t i = 0; i < in.cps.size();) {
        std::size_t matched = 0;
        if (step.kind == Kind::kReplace) {
          const std::size_t n = step.from.size();
          if (i + n <= in.cps.size() && std::equal(step.from.begin(), step.from.end(), in.cps.begin() + static_cast<std::ptrdiff_t>(i)))
            matched = n;
        } else {
          while (i + matched < in.cps.size() && in.cps[i + matched] == ' ') ++matched;
          if (matched < static_cast<std::size_t>(step.flags)) matched = 0;
        }
        if (!matched) {
          rewriter.emit(in.cps[i++], 0);
          continue;
        }
        rewriter.skip(matched);
        for (std::uint32_t cp : step.to) rewriter.emit(cp, 1);
        i += matched;
      }
      return;
    }
    case Kind::kPrepend: {
      Rewriter rewriter(in, out);
      int change = 0;
      if (!in.cps.empty())
        for (std::uint32_t cp : step.to) {
          rewriter.emit(cp, change);
          change = 1;
        }
      for (std::uint32_t cp : in.cps) {
        rewriter.emit(cp, change);
        change = 0;
      }
      return;
    }
  }
}

void Normalizer::apply(Text& text, Text& scratch) const {
  for (const Step& step : steps_) {
    apply_step(step, text, scratch);
    std::swap(text, scratch);
  }
}

bool Normalizer::apply_isolated(std::uint32_t cp, std::vector<std::uint32_t>& out) const {
  const Unicode& unicode = Unicode::get();
  Text text, scratch;
  text.cps.push_back(cp);
  bool free = true;
  std::vector<std::uint32_t> parts;
  for (const Step& step : steps_) {
    if (is_unicode_form(static_cast<int>(step.kind)) && !text.cps.empty()) {
      // Independent of what stands before it when its decomposition begins with a starter that never composes backwards.
      // Decompose compatibly: it begins with the same kind of character as any weaker form would, or a safer answer results.
      parts.clear();
      const bool compatible = step.kind == Kind::kNfkc || step.kind == Kind::kNfkd;
      unicode.decompose(text.cps[0], compatible, parts);
      const std::uint32_t f = unicode.flags(parts[0]);
      if (Unicode::combining_class(f) || (f & kComposesBack)) free = false;
    } else if (step.kind == Kind::kStrip || step.kind == Kind::kReplaceSpaceRuns || step.kind == Kind::kPrepend ||
               (step.kind == Kind::kReplace && step.from.size() != 1)) {
      free = false;
    }
    apply_step(step, text, scratch);
    std::swap(text, scratch);
  }
  out = text.cps;
  return free;
}

}  // namespace aitems::text
