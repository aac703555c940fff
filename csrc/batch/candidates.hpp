// Candidates of a batch of histories: the neighbours of their items, what of a list was seen, and the lists of several sources made
// into one. Lists are rows of a matrix, best first, with item -1 and score -infinity where there is none.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aitems::batch {

// Packed lists of items, one a row of the batch.
struct Lists {
  const std::int64_t* splits;
  const std::int32_t* items;
};

struct Found {
  std::int32_t* items;
  float* scores;
  std::size_t width;
};

// Whether each item of a row's list is in the row's history.
void contained(std::size_t rows, const Lists& lists, const Lists& histories, std::uint8_t* out);

// The first out.width of each row that are there and not in its history. Without histories.items nothing is left out. `stride` is the
// distance of rows; 0 = all rows read the same list.
void without_seen(std::size_t rows, const std::int32_t* items, const float* scores, std::size_t width, std::size_t stride, const Lists& histories, Found out);

// A row of weighted neighbours for each item.
struct Neighbours {
  const std::int64_t* splits;
  const std::int32_t* items;
  const float* weights;
};

// The best by the sum, over a history, of what the event weighs times the weight as a neighbour. Ties: the lower item first. Items of
// the history are left out where asked, and all that `allowed` (a flag an item, or null) does not name.
void similar_items(std::size_t rows, const Lists& histories, const float* event_weights, const Neighbours& similar, bool exclude_seen,
                   const std::uint8_t* allowed, Found out);

struct Source {
  const std::int32_t* items;
  const float* scores;
  std::size_t width;
  double weight;
  std::int64_t quota;
};

// Rows, one after the other; room for rows * budget of them, or as many as there are candidates.
struct Merged {
  std::int64_t* splits;
  std::int32_t* items;
  float* scores;
  std::int64_t* source_bits;
  std::int32_t* ranks;     // (, sources)
  float* source_scores;    // (, sources)
};

// Distinct candidates of each row, by falling sum over the sources of weight / (60 + rank), or of weight * (1 - (rank - 1) / found). Ties: the
// lower item first. At most `budget`; the first `quota` of a source are among them.
void merge(std::size_t rows, const Source* sources, std::size_t count, bool reciprocal, std::size_t budget, Merged out);

}  // namespace aitems::batch
