#include "ann/kmeans.hpp"

#include <algorithm>
#include <numeric>
#include <random>

#include "base/thread_pool.hpp"
#include "simd/ann_kernels.hpp"
#include "simd/kernels.hpp"

namespace aitems::ann {
namespace {

constexpr std::size_t kRowsPerList = 128;

// A sample without repetition, ascending. Written out because std::sample differs between standard libraries.
std::vector<std::size_t> sample_rows(std::size_t count, std::size_t wanted, std::mt19937_64& random) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  wanted = std::min(wanted, count);
  for (std::size_t i = 0; i < wanted; ++i) std::swap(order[i], order[i + random() % (count - i)]);
  order.resize(wanted);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace

std::vector<std::uint32_t> nearest_centroids(const float* rows, std::size_t count, int stride, const float* centroids, int lists,
                                             int threads) {
  const AnnKernels& simd = *kernels(active_isa()).ann;
  const std::size_t width = static_cast<std::size_t>(stride);
  std::vector<float> half_norms(static_cast<std::size_t>(lists));
  for (std::size_t l = 0; l < half_norms.size(); ++l) {
    simd.dot(centroids + l * width, centroids + l * width, stride, nullptr, 1, &half_norms[l]);
    half_norms[l] *= .5f;
  }
  std::vector<std::uint32_t> nearest(count);
  constexpr std::size_t kGrain = 1024, kTile = 128;  // a tile of centroids stays in the nearest cache for a row tile
  parallel_for(count, kGrain, threads, [&](std::size_t begin, std::size_t end, int) {
    std::vector<float> best(end - begin, 0), scores(kTile);
    for (std::size_t l0 = 0; l0 < half_norms.size(); l0 += kTile) {
      const std::size_t tile = std::min(kTile, half_norms.size() - l0);
      for (std::size_t i = begin; i < end; ++i) {
        simd.dot(rows + i * width, centroids + l0 * width, stride, nullptr, tile, scores.data());
        for (std::size_t l = 0; l < tile; ++l) {
          const float score = scores[l] - half_norms[l0 + l];
          if ((l0 == 0 && l == 0) || score > best[i - begin]) {
            best[i - begin] = score;
            nearest[i] = static_cast<std::uint32_t>(l0 + l);
          }
        }
      }
    }
  });
  return nearest;
}

std::vector<float> train_centroids(const float* rows, std::size_t count, int stride, int lists, int iterations, std::uint64_t seed,
                                   int threads) {
  std::mt19937_64 random(seed);
  const std::size_t width = static_cast<std::size_t>(stride), num_lists = static_cast<std::size_t>(lists);
  const std::vector<std::size_t> chosen = sample_rows(count, std::max(num_lists, num_lists * kRowsPerList), random);
  std::vector<float> sample(chosen.size() * width), centroids(num_lists * width);
  for (std::size_t i = 0; i < chosen.size(); ++i) std::copy_n(rows + chosen[i] * width, width, &sample[i * width]);
  const std::vector<std::size_t> first = sample_rows(chosen.size(), num_lists, random);
  for (std::size_t l = 0; l < num_lists; ++l) std::copy_n(&sample[first[l % first.size()] * width], width, &centroids[l * width]);
  std::vector<double> sums(num_lists * width);
  std::vector<std::size_t> members(num_lists);
  for (int round = 0; round < iterations; ++round) {
    const auto nearest = nearest_centroids(sample.data(), chosen.size(), stride, centroids.data(), lists, threads);
    std::fill(sums.begin(), sums.end(), 0.0);
    std::fill(members.begin(), members.end(), std::size_t{0});
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      ++members[nearest[i]];
      for (std::size_t d = 0; d < width; ++d) sums[nearest[i] * width + d] += sample[i * width + d];
    }
    for (std::size_t l = 0; l < num_lists; ++l) {
      if (members[l] == 0) {  // an empty list starts again from a random row
        std::copy_n(&sample[random() % chosen.size() * width], width, &centroids[l * width]);
        continue;
      }
      for (std::size_t d = 0; d < width; ++d)
        centroids[l * width + d] = static_cast<float>(sums[l * width + d] / static_cast<double>(members[l]));
    }
  }
  return centroids;
}

}  // namespace aitems::ann
