// The tokens of words met before, in a fixed amount of memory: 2-way sets of one cache line for words of up to 16 bytes and 3
// tokens, and a smaller table for words of up to 64 bytes and 13 tokens. A new word takes the place of the older one of its
// set. One memo a worker: no locks.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/aligned_buffer.hpp"

namespace aitems::text {

class WordMemo {
 public:
  static constexpr std::size_t kReadAhead = 64;  // bytes that must be readable from the start of a word
  static constexpr std::size_t kShort = 16, kLong = 64, kShortIds = 3, kLongIds = 13;

  struct ShortEntry {
    std::uint64_t key[2];
    std::int32_t ids[kShortIds];
    std::uint8_t length, count;
    std::uint16_t unused;
  };
  static_assert(sizeof(ShortEntry) == 32, "two entries fill a cache line");
  struct LongEntry {
    std::uint8_t key[kLong];
    std::int32_t ids[kLongIds];
    std::uint32_t hash;
    std::uint8_t length, count;
    std::uint16_t unused[3];
  };
  static_assert(sizeof(LongEntry) == 128, "an entry fills two cache lines");

  WordMemo() : short_(2 * kShortSets), long_(2 * kLongSets) {}

  struct Key {
    std::uint64_t low, high;
    std::size_t set;
  };
  static Key key_of(const std::uint8_t* word, std::size_t length) {  // length <= kShort
    Key key;
    std::memcpy(&key.low, word, 8);
    std::memcpy(&key.high, word + 8, 8);
    key.low &= kMasks.low[length];
    key.high &= kMasks.high[length];
    key.set = static_cast<std::size_t>(mix(key.low ^ 0x9E3779B97F4A7C15ull, key.high ^ 0xE7037ED1A0B428DBull ^ length)) & (kShortSets - 1);
    return key;
  }
  const ShortEntry* find(const Key& key, std::size_t length) const {
    const ShortEntry* set = &short_[2 * key.set];
    for (int way = 0; way < 2; ++way)
      if (set[way].key[0] == key.low && set[way].key[1] == key.high && set[way].length == length) return set + way;
    return nullptr;
  }
  void store(const Key& key, std::size_t length, const std::int32_t* ids, std::size_t count) {
    if (count > kShortIds) return;
    ShortEntry* set = &short_[2 * key.set];
    set[1] = set[0];
    set[0] = {{key.low, key.high}, {}, static_cast<std::uint8_t>(length), static_cast<std::uint8_t>(count), 0};
    for (std::size_t i = 0; i < count; ++i) set[0].ids[i] = ids[i];
  }

  static std::uint64_t hash_of(const std::uint8_t* word, std::size_t length) {  // kShort < length <= kLong
    std::uint64_t hash = length;
    for (std::size_t at = 0; at + 16 < length; at += 16) hash = mix(load(word + at) ^ hash, load(word + at + 8) ^ 0xA0761D6478BD642Full);
    return mix(load(word + length - 16) ^ hash, load(word + length - 8) ^ 0x8EBC6AF09C88C6E3ull);
  }
  const LongEntry* find(std::uint64_t hash, const std::uint8_t* word, std::size_t length) const {
    const LongEntry* set = &long_[2 * (hash & (kLongSets - 1))];
    for (int way = 0; way < 2; ++way)
      if (set[way].hash == static_cast<std::uint32_t>(hash >> 32) && set[way].length == length && !std::memcmp(set[way].key, word, length))
        return set + way;
    return nullptr;
  }
  void store(std::uint64_t hash, const std::uint8_t* word, std::size_t length, const std::int32_t* ids, std::size_t count) {
    if (count > kLongIds) return;
    LongEntry* set = &long_[2 * (hash & (kLongSets - 1))];
    set[1] = set[0];
    set[0] = LongEntry{};
    std::memcpy(set[0].key, word, length);
    for (std::size_t i = 0; i < count; ++i) set[0].ids[i] = ids[i];
    set[0].hash = static_cast<std::uint32_t>(hash >> 32);
    set[0].length = static_cast<std::uint8_t>(length);
    set[0].count = static_cast<std::uint8_t>(count);
  }

 private:
  // Which bytes of 16 belong to a word of a length; a table, because branches on the length are not predictable.
  struct Masks {
    std::uint64_t low[kShort + 1], high[kShort + 1];
  };
  static constexpr Masks kMasks = [] {
    Masks masks{};
    for (std::size_t n = 0; n <= kShort; ++n) {
      masks.low[n] = n >= 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << 8 * n) - 1;
      masks.high[n] = n >= 16 ? ~std::uint64_t{0} : n <= 8 ? 0 : (std::uint64_t{1} << 8 * (n - 8)) - 1;
    }
    return masks;
  }();

  // Powers of two. 1 MB and 0.5 MB: about the second-level cache of a core.
  static constexpr std::size_t kShortSets = std::size_t{1} << 14, kLongSets = std::size_t{1} << 11;

  static std::uint64_t load(const std::uint8_t* p) {
    std::uint64_t v;
    std::memcpy(&v, p, 8);
    return v;
  }
  static std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(a) * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
  }

  AlignedBuffer<ShortEntry> short_;  // length 0 = empty: no word is empty
  AlignedBuffer<LongEntry> long_;
};

}  // namespace aitems::text
