// A text on the exact path: code points, and (when offsets are wanted) which characters of the input each came from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace aitems::text {

constexpr std::uint32_t kReplacement = 0xFFFD;

// Half-open range of characters of the input.
struct Span {
  std::uint32_t begin = 0, end = 0;
};

struct Text {
  std::vector<std::uint32_t> cps;
  std::vector<Span> spans;  // one a code point when tracked, otherwise empty
  bool tracked = false;

  void clear() {
    cps.clear();
    spans.clear();
  }
};

// Half-open range of code points of a Text; `added` >= 0 marks an added token that is already resolved.
struct Piece {
  std::uint32_t begin, end;
  std::int32_t added = -1;
};

// Rewrites a Text, keeping the alignment by the rules of the reference: a character emitted with change 0 replaces the next
// old one, with change 1 is new (it shares the alignment of the old character before the cursor), with change -n replaces
// the next old one and removes the n after it.
class Rewriter {
 public:
  Rewriter(const Text& old, Text& out) : old_(old), out_(out) {
    out.clear();
    out.tracked = old.tracked;
  }
  void skip(std::size_t count) { at_ += count; }
  void emit(std::uint32_t cp, int change) {
    out_.cps.push_back(cp);
    if (!old_.tracked) return;
    if (change > 0) {
      out_.spans.push_back(at_ ? old_.spans[at_ - 1] : Span{});
    } else {
      out_.spans.push_back(at_ < old_.spans.size() ? old_.spans[at_] : Span{});
      at_ += 1 + static_cast<std::size_t>(-change);
    }
  }

 private:
  const Text& old_;
  Text& out_;
  std::size_t at_ = 0;
};

// Appends the UTF-8 of a code point (never a surrogate).
inline void append_utf8(std::uint32_t cp, std::string& out) {
  if (cp < 0x80) {
    out.push_back(static_cast<char>(cp));
  } else if (cp < 0x800) {
    out.push_back(static_cast<char>(0xC0 | cp >> 6));
    out.push_back(static_cast<char>(0x80 | (cp & 63)));
  } else if (cp < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | cp >> 12));
    out.push_back(static_cast<char>(0x80 | (cp >> 6 & 63)));
    out.push_back(static_cast<char>(0x80 | (cp & 63)));
  } else {
    out.push_back(static_cast<char>(0xF0 | cp >> 18));
    out.push_back(static_cast<char>(0x80 | (cp >> 12 & 63)));
    out.push_back(static_cast<char>(0x80 | (cp >> 6 & 63)));
    out.push_back(static_cast<char>(0x80 | (cp & 63)));
  }
}

// Reads one code point at p < end and moves p behind it. An ill-formed sequence gives U+FFFD for each maximal subpart
// (as Python's errors="replace") and sets `bad`.
std::uint32_t decode_utf8(const std::uint8_t*& p, const std::uint8_t* end, bool& bad);

}  // namespace aitems::text
