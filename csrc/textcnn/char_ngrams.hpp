// Hashed character n-grams of titles: the input of the classifier's bag branch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace aitems::textcnn {

struct CharNgrams {
  std::vector<int32_t> ids;     // bucket ids of all texts, one after another
  std::vector<int64_t> splits;  // count + 1 positions into ids
};

// Text i is data[offsets[i] .. offsets[i + 1]), UTF-8. White space (Unicode White_Space) runs count as one space, both ends are
// stripped, then one space is added at both ends; an n-gram is n code points of that, across words. A text without anything but
// white space has none. bucket = FNV-1a 64 of the n-gram's bytes, then (h ^ (h >> 32)) % buckets. Order: by start, then by n.
// In damaged UTF-8 a code point is a byte and the continuation bytes after it.
CharNgrams char_ngrams(const uint8_t* data, std::size_t data_size, const int64_t* offsets, std::size_t count, int min_n, int max_n, int64_t buckets,
                       int threads);

}  // namespace aitems::textcnn
