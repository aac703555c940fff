// Cuts a normalised text into words from the bit masks of the vector pass, without looking at most bytes. Covers the usual
// pre-tokenisers; PreTokenizer is the exact twin that covers all.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/text_kernels.hpp"
#include "text/pre_tokenizer.hpp"

namespace aitems::text {

enum class Scheme { kNone, kBert, kWhitespace, kWhitespaceSplit, kMetaspace, kGpt2 };

// What the vector pass cannot know of bytes >= 128: bits to correct, a block each. All bytes of a character have the same bits.
struct ClassPatch {
  std::uint64_t space = 0, digit = 0, other = 0;  // instead of letter
  std::uint64_t tail = 0;                         // continuation bytes of `other`
};
enum class CharClass : std::uint8_t { kLetter, kSpace, kDigit, kOther };

// The class of a code point >= 128 under a scheme.
CharClass class_of(Scheme scheme, std::uint32_t cp);
// The scheme of a pre-tokeniser, kNone where only the exact path has it.
Scheme scheme_of(const PreTokenizer& pre_tokenizer);

// Writes where words begin and end (size + 1 entries at most) and returns how many. `patches` may be null.
std::size_t segment(Scheme scheme, std::size_t size, const TextBlock* blocks, const ClassPatch* patches, std::int32_t* begins,
                    std::int32_t* ends);
// GPT-2's contractions ('s, 'll, ...) among the words, which take precedence over classes; text[-1] must be readable.
std::size_t split_contractions(const std::uint8_t* text, std::size_t size, std::size_t count, std::int32_t* begins, std::int32_t* ends,
                               std::int32_t* scratch);

}  // namespace aitems::text
