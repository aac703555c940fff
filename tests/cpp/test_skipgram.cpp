// Two threads on the same vectors (run under the thread sanitizer), and the kernels against sums written out.
#include "embedding/skipgram.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/error.hpp"
#include "simd/kernels.hpp"
#include "simd/skipgram_kernels.hpp"

namespace aitems {
namespace {

class Skipgram : public ::testing::TestWithParam<Isa> {};

TEST_P(Skipgram, KernelsAreExactOnSmallIntegers) {
  const SkipgramKernels& k = *kernels(GetParam()).skipgram;
  for (std::size_t blocks : {1u, 2u, 5u, 8u})
    for (std::size_t count : {1u, 2u, 6u}) {
      const std::size_t dim = 16 * blocks;
      std::vector<float> centre(dim), table(count * dim), want_centre(dim), want_table(count * dim);
      std::vector<float*> rows(count);
      std::vector<float> gains(count), got(count);
      for (std::size_t i = 0; i < dim; ++i) centre[i] = static_cast<float>(static_cast<int>(i * 7 % 5) - 2);
      for (std::size_t i = 0; i < count * dim; ++i) table[i] = static_cast<float>(static_cast<int>(i * 11 % 7) - 3);
      for (std::size_t t = 0; t < count; ++t) rows[t] = table.data() + t * dim, gains[t] = static_cast<float>(t) - 2.0f;
      k.scores(centre.data(), rows.data(), count, blocks, got.data());
      want_centre = centre, want_table = table;
      for (std::size_t t = 0; t < count; ++t) {
        float sum = 0;
        for (std::size_t i = 0; i < dim; ++i) {
          sum += centre[i] * table[t * dim + i];
          want_centre[i] += gains[t] * table[t * dim + i];
          want_table[t * dim + i] += gains[t] * centre[i];
        }
        EXPECT_EQ(got[t], sum);
      }
      k.update(centre.data(), rows.data(), gains.data(), count, blocks);
      EXPECT_EQ(centre, want_centre);
      EXPECT_EQ(table, want_table);
    }
}

TEST_P(Skipgram, ThreadsShareTheVectors) {
  std::vector<std::int32_t> ids(40000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i / 10 % 4 * 8 + i * 5 % 8);
  std::vector<std::int64_t> splits(ids.size() / 10 + 1);
  for (std::size_t r = 0; r < splits.size(); ++r) splits[r] = static_cast<std::int64_t>(r * 10);
  SkipgramOptions options;
  options.dim = 20, options.threads = 4, options.sample = 0;
  std::size_t last = 0;
  const auto vectors = train_skipgram(ids.data(), splits.data(), splits.size() - 1, 32, options, GetParam(), [&](std::size_t done, std::size_t) { last = done; });
  EXPECT_EQ(last, 3 * ids.size());
  for (float x : vectors) EXPECT_TRUE(std::isfinite(x));
}

INSTANTIATE_TEST_SUITE_P(Levels, Skipgram, ::testing::ValuesIn(runnable_isas()), [](const auto& p) { return std::string(isa_name(p.param)); });

TEST(SkipgramChecks, IdsOutOfRange) {
  const std::int32_t ids[] = {0, 4};
  const std::int64_t splits[] = {0, 2};
  EXPECT_THROW(train_skipgram(ids, splits, 1, 4, {}, active_isa(), nullptr), Error);
}

}  // namespace
}  // namespace aitems
