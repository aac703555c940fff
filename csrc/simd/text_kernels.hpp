// The one vector pass of the tokenisers over a text: copy, lower case, character classes, and the proof that the text is
// "plain" (ASCII and precomposed Hangul, well formed), on which NFKC and NFC change nothing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aitems {

// Classes of 64 bytes, a bit a byte. Bytes past the end have no bit.
struct TextBlock {
  std::uint64_t space;       // ASCII white space: 9..13 and 32
  std::uint64_t blank;       // 32
  std::uint64_t alnum;       // ASCII letters and digits, and every byte >= 128
  std::uint64_t digit;       // ASCII digits
  std::uint64_t punctuation; // ASCII punctuation without '_'
  std::uint64_t underscore;
  std::uint64_t trigger;     // one of the trigger bytes of the input
};

struct TextScan {
  std::uint8_t fold;         // 1: ASCII capitals become small letters in the copy
  std::uint8_t trigger[2];   // bytes to look for; equal when there is one, 0xFF (in no UTF-8 text) when there is none
};

enum TextScanFlag : std::uint32_t {
  kTextNotPlain = 1,  // a byte that is neither ASCII nor part of a well-formed syllable U+AC00..U+D7A3
  kTextControl = 2,   // an ASCII control character (0..31, 127)
  kTextTrigger = 4,   // a trigger byte
};

struct TextKernels {
  // Reads `size` bytes; writes the copy and the blocks in whole blocks of 64 (the copy is zero past the end). Returns flags.
  std::uint32_t (*scan)(const std::uint8_t* text, std::size_t size, std::uint8_t* copy, TextBlock* blocks, const TextScan* options);
};

}  // namespace aitems
