// k-means (Lloyd) that splits the vectors of an index into lists. The same result for every number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace aitems::ann {

// The nearest centroid (Euclidean; the lower index on ties) of each row.
std::vector<std::uint32_t> nearest_centroids(const float* rows, std::size_t count, int stride, const float* centroids, int lists,
                                             int threads);

// `lists` centroids, stride floats each, trained on at most 128 rows a list chosen by the seed. Needs count >= 1, lists >= 1.
std::vector<float> train_centroids(const float* rows, std::size_t count, int stride, int lists, int iterations, std::uint64_t seed,
                                   int threads);

}  // namespace aitems::ann
