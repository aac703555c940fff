// Word vectors by skip-gram with negative sampling (Mikolov et al., "Distributed Representations of Words and Phrases and their
// Compositionality", NeurIPS 2013): frequent tokens are sub-sampled, the window of each position is drawn anew, noise comes from
// unigram^0.75 by an alias table, and the learning rate falls linearly. Knows token numbers only, not the text behind them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "simd/isa.hpp"

namespace aitems {

struct SkipgramOptions {
  int dim = 128;
  int window = 5;
  int negatives = 5;
  int epochs = 3;
  double sample = 1e-4;  // tokens more frequent than this share are thinned out; 0 keeps all
  double learning_rate = 0.025;
  int threads = 0;
  std::uint64_t seed = 0;
};

// Called on the caller's thread about a hundred times; may throw to stop.
using SkipgramProgress = std::function<void(std::size_t words_done, std::size_t words_total)>;

// Returns (vocab_size, dim) row-major. Row r of the corpus is ids[splits[r] .. splits[r + 1]).
//
// With threads = 1 the result depends on the input and the seed only, whatever the ISA level. More threads update the same
// vectors without locks ("Hogwild", Niu et al. 2011): an update may be lost where two threads meet in a row, which
// costs nothing measurable on sparse text, and no two runs are equal to the last bit.
std::vector<float> train_skipgram(const std::int32_t* ids, const std::int64_t* splits, std::size_t rows, std::size_t vocab_size,
                                  const SkipgramOptions& options, Isa isa, const SkipgramProgress& progress);

}  // namespace aitems
