#include "text/context_free.hpp"

#include <cstring>
#include <memory>
#include <string>

namespace aitems::text {

ContextFree::~ContextFree() {
  for (auto& page : pages_) delete[] page.load();
}

const ContextFree::Entry* ContextFree::fill(std::uint32_t page) const {
  auto entries = std::make_unique<Entry[]>(256);
  std::vector<std::uint32_t> out;
  std::string bytes;
  for (std::uint32_t low = 0; low < 256; ++low) {
    Entry& entry = entries[low];
    entry = {kDepends, CharClass::kLetter, {}};
    const std::uint32_t cp = page << 8 | low;
    if (cp - 0xD800 < 0x800 || !normalizer_.apply_isolated(cp, out)) continue;
    bytes.clear();
    bool simple = true;
    for (std::uint32_t to : out) {
      append_utf8(to, bytes);
      if (to < 0x80) continue;
      const CharClass kind = class_of(scheme_, to);
      if (kind == CharClass::kLetter && scheme_ != Scheme::kMetaspace) continue;
      entry.kind = kind;
      // Classes inside a longer result, and spaces of several bytes in GPT-2's pattern, are left to the exact path.
      if (out.size() > 1 || (kind == CharClass::kSpace && scheme_ == Scheme::kGpt2)) simple = false;
    }
    if (!simple || bytes.size() > sizeof(entry.bytes)) continue;
    entry.size = static_cast<std::uint8_t>(bytes.size());
    std::memcpy(entry.bytes, bytes.data(), bytes.size());
  }
  const Entry* expected = nullptr;
  if (pages_[page].compare_exchange_strong(expected, entries.get(), std::memory_order_acq_rel)) return entries.release();
  return expected;  // another thread was first
}

bool ContextFree::plain(bool& fold, bool& controls) const {
  const auto is = [&](std::uint32_t cp, std::uint32_t to) {
    std::string bytes;
    append_utf8(to, bytes);
    const Entry& entry = (*this)[cp];
    return entry.size == bytes.size() && !std::memcmp(entry.bytes, bytes.data(), bytes.size());
  };
  fold = is('A', 'a');
  controls = true;
  for (std::uint32_t c = 0; c < 0x80; ++c) {
    const bool same = is(c, fold && c >= 'A' && c <= 'Z' ? c + 32 : c);
    if (c < 0x20 || c == 0x7F) controls &= same;
    else if (!same) return false;
  }
  for (std::uint32_t cp = 0xAC00; cp <= 0xD7A3; ++cp)
    if (!is(cp, cp)) return false;
  return true;
}

}  // namespace aitems::text
