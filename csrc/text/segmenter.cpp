#include "text/segmenter.hpp"

#include <bit>
#include <cstring>

#include "text/unicode.hpp"

namespace aitems::text {
namespace {

struct Classes {
  std::uint64_t space, letter, digit, other, tail;
};

template <Scheme kScheme>
Classes classes_of(const TextBlock& b, const ClassPatch* patch) {
  Classes c{};
  if constexpr (kScheme == Scheme::kMetaspace) {
    c.space = b.blank;
  } else {
    c.space = b.space;
    if constexpr (kScheme == Scheme::kBert) c.letter = ~(b.space | b.punctuation | b.underscore);
    if constexpr (kScheme == Scheme::kWhitespace) c.letter = b.alnum | b.underscore;
    if constexpr (kScheme == Scheme::kWhitespaceSplit) c.letter = ~b.space;
    if constexpr (kScheme == Scheme::kGpt2) {
      c.letter = b.alnum & ~b.digit;
      c.digit = b.digit;
    }
  }
  if (patch) {
    c.letter &= ~(patch->space | patch->digit | patch->other);
    c.space |= patch->space;
    c.digit |= patch->digit;
    c.tail = patch->tail;
  }
  c.other = ~(c.space | c.letter | c.digit);
  return c;
}

template <Scheme kScheme>
std::size_t segment_as(std::size_t size, const TextBlock* blocks, const ClassPatch* patches, std::int32_t* begins, std::int32_t* ends) {
  constexpr bool kGapless = kScheme == Scheme::kMetaspace || kScheme == Scheme::kGpt2;  // every byte is in a word
  std::size_t begun = 0, ended = 0;
  const std::size_t count = (size + 63) / 64;
  // classes of the byte before the block; before the text is nothing, which begins no word
  std::uint64_t was_space = 1, was_letter = 0, was_digit = 0, was_other = 0, was_joined = 0;
  Classes next = count ? classes_of<kScheme>(blocks[0], patches) : Classes{};
  for (std::size_t i = 0; i < count; ++i) {
    const Classes c = next;
    const std::size_t left = size - 64 * i;
    const std::uint64_t valid = left >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
    if (i + 1 < count) next = classes_of<kScheme>(blocks[i + 1], patches ? patches + i + 1 : nullptr);
    std::uint64_t begin, end = 0;
    if constexpr (kScheme == Scheme::kMetaspace) {
      begin = c.space;
      if (i == 0) begin |= 1;
    } else if constexpr (kScheme == Scheme::kGpt2) {
      // the last space of a run that a word follows: a blank joins the word, any other space stands alone
      const std::uint64_t after = c.space >> 1 | (i + 1 < count ? next.space << 63 : std::uint64_t{1} << 63);
      const std::uint64_t at_end = left <= 64 ? std::uint64_t{1} << (left - 1) : 0;
      const std::uint64_t last = c.space & ~(after | at_end);
      const std::uint64_t first = c.space & ~(c.space << 1 | (i ? was_space : 0));
      const std::uint64_t joined = last & blocks[i].blank;
      const std::uint64_t word = (c.letter & ~(c.letter << 1 | was_letter)) | (c.digit & ~(c.digit << 1 | was_digit)) |
                                 (c.other & ~(c.other << 1 | was_other));
      begin = first | last | (word & ~(joined << 1 | was_joined));
      was_joined = joined >> 63;
    } else {
      const std::uint64_t letter = c.letter & ~(c.letter << 1 | was_letter);
      if constexpr (kScheme == Scheme::kBert) begin = letter | (c.other & ~c.tail);
      else begin = letter | (c.other & ~(c.other << 1 | was_other));
      end = (c.space | begin) & ~(c.space << 1 | was_space);
    }
    was_space = c.space >> 63;
    was_letter = c.letter >> 63;
    was_digit = c.digit >> 63;
    was_other = c.other >> 63;
    begin &= valid;
    end &= valid;
    const auto base = static_cast<std::int32_t>(64 * i);
    for (; begin; begin &= begin - 1) begins[begun++] = base + std::countr_zero(begin);
    if constexpr (!kGapless)
      for (; end; end &= end - 1) ends[ended++] = base + std::countr_zero(end);
  }
  if constexpr (kGapless) {
    for (std::size_t k = 0; k + 1 < begun; ++k) ends[k] = begins[k + 1];
    if (begun) ends[begun - 1] = static_cast<std::int32_t>(size);
  } else if (ended < begun) {
    ends[ended] = static_cast<std::int32_t>(size);
  }
  return begun;
}

}  // namespace

CharClass class_of(Scheme scheme, std::uint32_t cp) {
  const std::uint32_t f = Unicode::get().flags(cp);
  switch (scheme) {
    case Scheme::kBert: return f & kSpace ? CharClass::kSpace : f & kPunctuation ? CharClass::kOther : CharClass::kLetter;
    case Scheme::kWhitespace: return f & kWordChar ? CharClass::kLetter : f & kSpace ? CharClass::kSpace : CharClass::kOther;
    case Scheme::kWhitespaceSplit: return f & kSpace ? CharClass::kSpace : CharClass::kLetter;
    case Scheme::kGpt2:
      return f & kLetter ? CharClass::kLetter : f & kNumber ? CharClass::kDigit : f & kSpace ? CharClass::kSpace : CharClass::kOther;
    default: return CharClass::kLetter;
  }
}

Scheme scheme_of(const PreTokenizer& pre_tokenizer) {
  using Kind = PreTokenizer::Kind;
  const auto& steps = pre_tokenizer.steps();
  if (steps.size() == 1) {
    switch (steps[0].kind) {
      case Kind::kBert: return Scheme::kBert;
      case Kind::kWhitespace: return Scheme::kWhitespace;
      case Kind::kWhitespaceSplit: return Scheme::kWhitespaceSplit;
      case Kind::kMetaspace: return steps[0].flags & 4 && steps[0].text[0] >= 0x80 ? Scheme::kMetaspace : Scheme::kNone;
      case Kind::kSplitGpt2: return Scheme::kGpt2;
      default: return Scheme::kNone;
    }
  }
  if (steps.size() == 2 && steps[0].kind == Kind::kPrefixSpace && steps[1].kind == Kind::kSplitGpt2) return Scheme::kGpt2;
  return Scheme::kNone;
}

std::size_t segment(Scheme scheme, std::size_t size, const TextBlock* blocks, const ClassPatch* patches, std::int32_t* begins,
                    std::int32_t* ends) {
  switch (scheme) {
    case Scheme::kBert: return segment_as<Scheme::kBert>(size, blocks, patches, begins, ends);
    case Scheme::kWhitespace: return segment_as<Scheme::kWhitespace>(size, blocks, patches, begins, ends);
    case Scheme::kWhitespaceSplit: return segment_as<Scheme::kWhitespaceSplit>(size, blocks, patches, begins, ends);
    case Scheme::kMetaspace: return segment_as<Scheme::kMetaspace>(size, blocks, patches, begins, ends);
    case Scheme::kGpt2: return segment_as<Scheme::kGpt2>(size, blocks, patches, begins, ends);
    case Scheme::kNone: break;
  }
  return 0;
}

std::size_t split_contractions(const std::uint8_t* text, std::size_t size, std::size_t count, std::int32_t* begins, std::int32_t* ends,
                               std::int32_t* scratch) {
  if (!std::memchr(text, '\'', size)) return count;
  std::size_t out = 0;
  std::int32_t floor = -1;  // a contraction reaches to here: words that begin before it are cut off
  const auto n = static_cast<std::int32_t>(size);
  for (std::size_t k = 0; k < count; ++k) {
    std::int32_t at = begins[k];
    const std::int32_t end = ends[k];
    if (at < floor) {
      if (end <= floor) continue;
      at = floor;
    }
    while (at < end) {
      std::int32_t length = 0;
      if (at >= 0 && text[at] == '\'' && at + 1 < n) {
        const std::uint8_t a = text[at + 1], b = at + 2 < n ? text[at + 2] : std::uint8_t{0};
        if (a == 's' || a == 't' || a == 'm' || a == 'd') length = 2;
        else if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) length = 3;
      }
      scratch[out++] = at;
      if (!length) break;
      floor = at += length;
    }
  }
  std::memcpy(begins, scratch, out * sizeof(*begins));
  for (std::size_t k = 0; k + 1 < out; ++k) ends[k] = begins[k + 1];
  if (out) ends[out - 1] = n;
  return out;
}

}  // namespace aitems::text
