// Greedy orders that trade relevance for variety. Rows come in falling relevance; ties go to the lower row. Each returns the rows it
// chose, at most k; whoever calls appends the others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "simd/isa.hpp"

namespace aitems {

struct Vectors {
  const float* data;               // (m, dim), any length; a zero row counts as missing
  std::size_t dim;
  const std::int32_t* rows;        // (n,) row of data for each candidate
  const std::uint8_t* present;     // (m,) or null = all
};

// Maximal marginal relevance: (1 - strength) * relevance - strength * largest cosine to a chosen row. A pair with a missing
// vector counts as `missing_similarity`.
std::vector<std::int32_t> mmr(const double* relevance, std::size_t n, const Vectors& vectors, std::size_t k, double strength,
                              double missing_similarity, Isa isa);

// Determinantal point process, fast greedy MAP (Chen, Zhang, Zhou 2018): (1 - strength) * relevance + strength * log(d^2), where d^2
// is what a row's unit vector has outside of the space of the last `window` - 1 chosen. Rows whose d^2 is below `floor` are not chosen.
// A missing vector has d^2 = 1 - missing_similarity and takes nothing from the others.
std::vector<std::int32_t> dpp(const double* relevance, std::size_t n, const Vectors& vectors, std::size_t k, double strength,
                              double missing_similarity, std::size_t window, double floor, Isa isa);

// Calibrated recommendations (Steck 2018): (1 - strength) * sum of relevance - strength * KL(target || (1 - a) q + a target), q the
// shares of the groups on the page so far, a = 0.01. Group -1 takes a place but has no share of the target.
std::vector<std::int32_t> calibrated(const double* relevance, const std::int32_t* groups, std::size_t n, const double* target,
                                     std::size_t num_groups, std::size_t k, double strength);

}  // namespace aitems
