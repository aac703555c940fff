// What a normaliser makes of single code points, for those whose result does not depend on their neighbours: a text of such
// code points is normalised by concatenation. Filled page by page on first use from the exact Normalizer, so that it cannot
// differ from it; safe for many threads, without locks. At most 17 MB when every code point of Unicode was met.
#pragma once

#include <atomic>
#include <cstdint>

#include "text/normalizer.hpp"
#include "text/segmenter.hpp"

namespace aitems::text {

class ContextFree {
 public:
  ContextFree(const Normalizer& normalizer, Scheme scheme) : normalizer_(normalizer), scheme_(scheme) {}
  ~ContextFree();
  ContextFree(const ContextFree&) = delete;
  ContextFree& operator=(const ContextFree&) = delete;

  static constexpr std::uint8_t kDepends = 255;
  struct Entry {
    std::uint8_t size;  // bytes of the result; kDepends: only the exact path knows
    CharClass kind;     // class of the result when it is one character >= 128, otherwise kLetter
    char bytes[14];
  };
  const Entry& operator[](std::uint32_t cp) const {
    const Entry* page = pages_[cp >> 8].load(std::memory_order_acquire);
    return (page ? page : fill(cp >> 8))[cp & 255];
  }
  // Whether every ASCII character and Hangul syllable stays as it is (`fold` false), or only capitals become small.
  bool plain(bool& fold, bool& controls) const;

 private:
  const Entry* fill(std::uint32_t page) const;

  const Normalizer& normalizer_;
  Scheme scheme_;
  mutable std::atomic<const Entry*> pages_[0x1100] = {};
};

}  // namespace aitems::text
