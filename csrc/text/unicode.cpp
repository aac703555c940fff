#include "text/unicode.hpp"

#include <algorithm>

#include "text/unicode_tables.hpp"

namespace aitems::text {
namespace {

constexpr std::uint32_t kCodePoints = 0x110000, kPageSize = 256;
// Hangul syllables are arithmetic: S = base + (L * 21 + V) * 28 + T (Unicode, section 3.12).
constexpr std::uint32_t kSBase = 0xAC00, kLBase = 0x1100, kVBase = 0x1161, kTBase = 0x11A7;
constexpr std::uint32_t kLCount = 19, kVCount = 21, kTCount = 28, kSCount = kLCount * kVCount * kTCount;

std::uint32_t slot_of(std::uint32_t cp) { return cp * 0x9E3779B1u >> 7; }

}  // namespace

const Unicode& Unicode::get() {
  static const Unicode instance;
  return instance;
}

Unicode::Unicode() {
  pages_.resize(kCodePoints / kPageSize);
  std::size_t run = 0;  // the run that holds the first code point of the page
  std::vector<std::pair<std::uint32_t, const std::uint32_t*>> uniform;
  for (std::uint32_t page = 0; page < pages_.size(); ++page) {
    const std::uint32_t begin = page * kPageSize, end = begin + kPageSize;
    auto next_start = [&] { return run + 2 < kFlagRunsSize ? kFlagRuns[run + 2] : kCodePoints; };
    if (next_start() >= end) {  // one value for the whole page: shared with the other pages of that value
      const std::uint32_t value = kFlagRuns[run + 1];
      auto known = std::find_if(uniform.begin(), uniform.end(), [&](const auto& u) { return u.first == value; });
      if (known == uniform.end()) {
        storage_.push_back(std::make_unique<std::uint32_t[]>(kPageSize));
        std::fill_n(storage_.back().get(), kPageSize, value);
        uniform.emplace_back(value, storage_.back().get());
        known = uniform.end() - 1;
      }
      pages_[page] = known->second;
    } else {
      storage_.push_back(std::make_unique<std::uint32_t[]>(kPageSize));
      for (std::uint32_t cp = begin; cp < end; ++cp) {
        while (next_start() <= cp) run += 2;
        storage_.back()[cp - begin] = kFlagRuns[run + 1];
      }
      pages_[page] = storage_.back().get();
    }
    while (next_start() <= end && end < kCodePoints) run += 2;
  }
  lower_ = index(kLower, kLowerSize);
  canonical_ = index(kCanonical, kCanonicalSize);
  compatible_ = index(kCompatible, kCompatibleSize);
  for (std::size_t i = 0; i < kCompositionsSize; i += 3)
    compositions_.emplace_back(static_cast<std::uint64_t>(kCompositions[i]) << 32 | kCompositions[i + 1], kCompositions[i + 2]);
  std::sort(compositions_.begin(), compositions_.end());
}

Unicode::Mapping Unicode::index(const std::uint32_t* table, std::size_t size) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < size; i += 2 + table[i + 1]) ++count;
  Mapping mapping;
  std::uint32_t capacity = 16;
  while (capacity < 2 * count) capacity *= 2;
  mapping.mask = capacity - 1;
  mapping.slots.assign(capacity, {0, nullptr});
  for (std::size_t i = 0; i < size; i += 2 + table[i + 1]) {
    std::uint32_t slot = slot_of(table[i]) & mapping.mask;
    while (mapping.slots[slot].second) slot = (slot + 1) & mapping.mask;
    mapping.slots[slot] = {table[i], table + i + 1};
  }
  return mapping;
}

std::span<const std::uint32_t> Unicode::find(const Mapping& mapping, std::uint32_t cp) {
  for (std::uint32_t slot = slot_of(cp) & mapping.mask;; slot = (slot + 1) & mapping.mask) {
    const auto& [key, value] = mapping.slots[slot];
    if (!value) return {};
    if (key == cp) return {value + 1, value[0]};
  }
}

void Unicode::decompose(std::uint32_t cp, bool compatible, std::vector<std::uint32_t>& out) const {
  if (cp - kSBase < kSCount) {
    const std::uint32_t s = cp - kSBase;
    out.push_back(kLBase + s / (kVCount * kTCount));
    out.push_back(kVBase + s % (kVCount * kTCount) / kTCount);
    if (s % kTCount) out.push_back(kTBase + s % kTCount);
    return;
  }
  const std::uint32_t f = flags(cp);
  std::span<const std::uint32_t> to;
  if (compatible && (f & kHasCompatible)) to = find(compatible_, cp);
  else if (f & kHasCanonical) to = find(canonical_, cp);
  if (to.empty()) out.push_back(cp);
  else out.insert(out.end(), to.begin(), to.end());
}

std::uint32_t Unicode::compose(std::uint32_t first, std::uint32_t second) const {
  if (first - kLBase < kLCount && second - kVBase < kVCount)
    return kSBase + ((first - kLBase) * kVCount + (second - kVBase)) * kTCount;
  if (first - kSBase < kSCount && (first - kSBase) % kTCount == 0 && second - kTBase - 1 < kTCount - 1)
    return first + (second - kTBase);
  const std::uint64_t key = static_cast<std::uint64_t>(first) << 32 | second;
  auto found = std::lower_bound(compositions_.begin(), compositions_.end(), std::pair<std::uint64_t, std::uint32_t>{key, 0});
  return found != compositions_.end() && found->first == key ? found->second : 0;
}

}  // namespace aitems::text
