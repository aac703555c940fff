// Facts about code points, as the reference tokenisers have them: classes, decomposition, composition, lower case.
// Knows no tokeniser. The tables are unpacked once, on first use (about 1 ms, 0.5 MB).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace aitems::text {

// Same order as FLAGS in make_unicode_tables.py. The top byte holds the canonical combining class.
enum CharFlag : std::uint32_t {
  kSpace = 1u << 0,          // White_Space
  kPunctuation = 1u << 1,    // ASCII punctuation or category P*, as BertPreTokenizer splits
  kWordChar = 1u << 2,       // \w
  kLetter = 1u << 3,         // \p{L}
  kNumber = 1u << 4,         // \p{N}
  kNumeric = 1u << 5,        // numbers as the Digits pre-tokeniser has them
  kCleanRemoved = 1u << 6,   // BertNormalizer's clean_text drops it
  kCleanSpace = 1u << 7,     // clean_text makes it a space
  kAccent = 1u << 8,         // StripAccents drops it
  kBertAccent = 1u << 9,     // BertNormalizer's strip_accents drops it
  kHasLower = 1u << 10,      // lower case differs
  kHasCanonical = 1u << 11,  // NFD differs (Hangul syllables not flagged: they are computed)
  kHasCompatible = 1u << 12, // NFKD differs from NFD
  kComposesBack = 1u << 13,  // may compose with a character before it
  kChinese = 1u << 14,       // handle_chinese_chars puts spaces around it
};

class Unicode {
 public:
  // The one instance; built on first use.
  static const Unicode& get();

  std::uint32_t flags(std::uint32_t cp) const { return pages_[cp >> 8][cp & 255]; }
  static std::uint32_t combining_class(std::uint32_t flags) { return flags >> 24; }
  // Lower case of a code point flagged kHasLower.
  std::span<const std::uint32_t> lower(std::uint32_t cp) const { return find(lower_, cp); }
  // Appends the full decomposition (canonical, or compatible too).
  void decompose(std::uint32_t cp, bool compatible, std::vector<std::uint32_t>& out) const;
  // The primary composite of two code points, or 0.
  std::uint32_t compose(std::uint32_t first, std::uint32_t second) const;

 private:
  struct Mapping {  // open addressing; value points into the generated table: n, then n code points
    std::vector<std::pair<std::uint32_t, const std::uint32_t*>> slots;
    std::uint32_t mask = 0;
  };
  Unicode();
  static Mapping index(const std::uint32_t* table, std::size_t size);
  static std::span<const std::uint32_t> find(const Mapping& mapping, std::uint32_t cp);

  std::vector<const std::uint32_t*> pages_;
  std::vector<std::unique_ptr<std::uint32_t[]>> storage_;
  Mapping lower_, canonical_, compatible_;
  std::vector<std::pair<std::uint64_t, std::uint32_t>> compositions_;  // sorted by (first << 32 | second)
};

}  // namespace aitems::text
