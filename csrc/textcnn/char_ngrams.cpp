#include "textcnn/char_ngrams.hpp"

#include <string>

#include "base/error.hpp"
#include "base/thread_pool.hpp"

namespace aitems::textcnn {
namespace {

constexpr uint64_t kFnvOffset = 0xcbf29ce484222325ull, kFnvPrime = 0x100000001b3ull;
constexpr int kMaxN = 8;

bool continuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

// Length in bytes of the white space at `p`, 0 if it is something else. The property White_Space of Unicode.
int white_space(const uint8_t* p, const uint8_t* end) {
  const uint8_t a = p[0];
  if (a == ' ' || (a >= 0x09 && a <= 0x0D)) return 1;
  if (a < 0xC2) return 0;
  if (a == 0xC2) return end - p >= 2 && (p[1] == 0x85 || p[1] == 0xA0) ? 2 : 0;
  if ((a != 0xE1 && a != 0xE2 && a != 0xE3) || end - p < 3) return 0;
  if (a == 0xE1) return p[1] == 0x9A && p[2] == 0x80 ? 3 : 0;                // U+1680
  if (a == 0xE3) return p[1] == 0x80 && p[2] == 0x80 ? 3 : 0;                // U+3000
  if (p[1] == 0x81) return p[2] == 0x9F ? 3 : 0;                             // U+205F
  const bool space = p[2] <= 0x8A || p[2] == 0xA8 || p[2] == 0xA9 || p[2] == 0xAF;  // U+2000-200A, 2028, 2029, 202F
  return p[1] == 0x80 && p[2] >= 0x80 && space ? 3 : 0;
}

// One text in its n-gram form: bytes, and where each code point starts (the end included).
struct Prepared {
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> starts;

  void fill(const uint8_t* p, const uint8_t* end) {
    bytes.clear();
    starts.clear();
    bool space = true;  // the space at the front
    while (p < end) {
      if (const int skip = white_space(p, end)) {
        space = true;
        p += skip;
        continue;
      }
      if (space) push(' ');
      space = false;
      starts.push_back(static_cast<uint32_t>(bytes.size()));
      do bytes.push_back(*p++);
      while (p < end && continuation(*p));
    }
    if (bytes.empty()) return;
    push(' ');
    starts.push_back(static_cast<uint32_t>(bytes.size()));
  }
  int64_t points() const { return starts.empty() ? 0 : static_cast<int64_t>(starts.size()) - 1; }

 private:
  void push(uint8_t byte) {
    starts.push_back(static_cast<uint32_t>(bytes.size()));
    bytes.push_back(byte);
  }
};

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

}  // namespace

CharNgrams char_ngrams(const uint8_t* data, std::size_t data_size, const int64_t* offsets, std::size_t count, int min_n, int max_n, int64_t buckets,
                       int threads) {
  if (min_n < 1 || max_n < min_n || max_n > kMaxN)
    invalid("n-gram sizes must satisfy 1 <= min_n <= max_n <= " + std::to_string(kMaxN) + ", got min_n " + std::to_string(min_n) + ", max_n " +
            std::to_string(max_n));
  if (buckets < 1 || buckets > INT32_MAX) invalid("buckets must be from 1 to 2147483647, got " + std::to_string(buckets));
  for (std::size_t i = 0; i < count; ++i)
    if (offsets[i] < 0 || offsets[i + 1] < offsets[i] || static_cast<std::size_t>(offsets[i + 1]) > data_size)
      invalid("offsets must ascend from 0 to the size of data (" + std::to_string(data_size) + " bytes); text " + std::to_string(i) + " is from " +
              std::to_string(offsets[i]) + " to " + std::to_string(offsets[i + 1]));

  // Each piece of texts is hashed into its own array, then all are put in a row: the texts are walked only once.
  constexpr std::size_t kGrain = 256;
  CharNgrams out;
  out.splits.assign(count + 1, 0);
  std::vector<std::vector<int32_t>> pieces((count + kGrain - 1) / kGrain);
  const uint64_t mask = (buckets & (buckets - 1)) == 0 ? static_cast<uint64_t>(buckets) - 1 : 0;
  parallel_for(count, kGrain, threads, [&](std::size_t begin, std::size_t end, int) {
    Prepared text;
    std::vector<int32_t>& ids = pieces[begin / kGrain];
    ids.reserve(static_cast<std::size_t>(offsets[end] - offsets[begin]) * static_cast<std::size_t>(max_n - min_n + 1) / 2);
    for (std::size_t i = begin; i < end; ++i) {
      text.fill(data + offsets[i], data + offsets[i + 1]);
      const int64_t points = text.points();
      const std::size_t before = ids.size();
      for (int64_t start = 0; start < points; ++start) {
        uint64_t hash = kFnvOffset;
        const int longest = static_cast<int>(points - start < max_n ? points - start : max_n);
        for (int n = 1; n <= longest; ++n) {
          for (uint32_t b = text.starts[static_cast<std::size_t>(start + n - 1)]; b < text.starts[static_cast<std::size_t>(start + n)]; ++b)
            hash = (hash ^ text.bytes[b]) * kFnvPrime;
          if (n < min_n) continue;
          const uint64_t folded = hash ^ (hash >> 32);
          ids.push_back(static_cast<int32_t>(mask || buckets == 1 ? folded & mask : folded % static_cast<uint64_t>(buckets)));
        }
      }
      out.splits[i + 1] = static_cast<int64_t>(ids.size() - before);
    }
  });
  for (std::size_t i = 0; i < count; ++i) out.splits[i + 1] += out.splits[i];
  out.ids.reserve(static_cast<std::size_t>(out.splits[count]));
  for (const auto& piece : pieces) out.ids.insert(out.ids.end(), piece.begin(), piece.end());
  return out;
}

}  // namespace aitems::textcnn
