// Checks of vectors and ids, once, at the edge.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace aitems::ann {

// Throws InvalidInput naming the first row with NaN, infinity or a norm above kNormMax. `what`: "query" or "vector".
void check_vectors(const float* rows, std::size_t count, int dim, const char* what);
// Throws InvalidInput naming the first negative or repeated id.
void check_ids(const std::int64_t* ids, std::size_t count);
// Throws InvalidInput for a value that half precision cannot hold.
void check_half(const float* values, std::size_t count);
// Rows divided by their norms; a zero row stays zero.
std::vector<float> normalized(const float* rows, std::size_t count, int dim);

}  // namespace aitems::ann
