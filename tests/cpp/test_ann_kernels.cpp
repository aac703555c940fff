// The scan of every level against the plain loops, where Python does not reach: scales that four blocks share and scales that
// differ row by row (files of earlier releases), dead blocks, any number of queries, codes and sums at their ends; and the quantiser.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "simd/ann_kernels.hpp"
#include "simd/isa.hpp"
#include "simd/kernels.hpp"

namespace aitems {
namespace {

class AnnKernelsOf : public ::testing::TestWithParam<Isa> {};

struct Found {
  std::vector<float> scores;
  std::vector<std::uint32_t> rows;
  bool operator==(const Found&) const = default;
};

std::vector<Found> scanned(const AnnKernels& simd, const AnnBlocks& blocks, std::size_t begin, std::size_t end,
                           const std::vector<std::int8_t>& codes, const std::vector<float>& thresholds) {
  const std::size_t count = thresholds.size(), room = (end - begin + 1) * 16, dim = static_cast<std::size_t>(blocks.code_dim);
  std::vector<float> scores(count * room);
  std::vector<std::uint32_t> rows(count * room);
  std::vector<AnnQuery> queries(count);
  for (std::size_t q = 0; q < count; ++q) {
    std::int32_t sum = 0;
    for (std::size_t d = 0; d < dim; ++d) sum += codes[q * dim + d];
    queries[q] = {&codes[q * dim], 128 * sum, 1.5f, thresholds[q], &scores[q * room], &rows[q * room], 0};
  }
  simd.enter();
  simd.scan(&blocks, begin, end, queries.data(), static_cast<std::int32_t>(count));
  simd.leave();
  std::vector<Found> found(count);
  for (std::size_t q = 0; q < count; ++q) {
    const std::size_t held = static_cast<std::size_t>(queries[q].count);
    found[q].scores.assign(queries[q].scores, queries[q].scores + held);
    found[q].rows.assign(queries[q].rows, queries[q].rows + held);
  }
  return found;
}

TEST_P(AnnKernelsOf, ScanEqualsThePlainLoops) {
  const AnnKernels& simd = *kernels(GetParam()).ann;
  const AnnKernels& plain = *kernels(Isa::kBaseline).ann;
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (const int dim : {4, 64, 100, 128, 384})
    for (const int kind : {0, 1, 2, 3})  // shared scales, own scales, with biases, all codes at their ends
      for (const std::size_t count : {1, 3, 5, 12, 17, 33, 40}) {
        const std::size_t num_blocks = 11, width = static_cast<std::size_t>(dim);
        std::vector<std::uint8_t> codes(num_blocks * 16 * width);
        std::vector<float> scales(num_blocks * 16), biases(num_blocks * 16), thresholds(count);
        std::vector<std::uint16_t> live(num_blocks);
        std::vector<std::int8_t> query_codes((count + kAnnQueriesRead) * width);
        for (auto& c : codes) c = static_cast<std::uint8_t>(kind == 3 ? (random() % 2 ? 255 : 1) : 1 + random() % 255);
        for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = kind == 1 || i % 64 == 0 ? .5f + uniform(random) : scales[i - 1];
        for (auto& b : biases) b = -100 * uniform(random);
        for (auto& l : live) l = static_cast<std::uint16_t>(random() % 3 ? random() : 0);
        for (std::size_t i = 0; i < count * width; ++i)
          query_codes[i] = static_cast<std::int8_t>(kind == 3 ? (random() % 2 ? 127 : -127) : static_cast<int>(random() % 255) - 127);
        for (auto& t : thresholds) t = (uniform(random) - .5f) * 127 * 127 * std::sqrt(static_cast<float>(dim));
        thresholds[0] = -std::numeric_limits<float>::infinity();
        const AnnBlocks blocks{codes.data(), scales.data(), kind == 2 ? biases.data() : nullptr, live.data(), dim};
        const auto all = scanned(plain, blocks, 0, num_blocks, query_codes, thresholds);
        EXPECT_EQ(scanned(simd, blocks, 0, num_blocks, query_codes, thresholds), all) << dim << ' ' << kind << ' ' << count;
        // A threshold that is a row's very score keeps that row out and lets the next better one in.
        auto exact = thresholds;
        for (std::size_t q = 0; q < count; ++q)
          if (!all[q].scores.empty()) exact[q] = all[q].scores[all[q].scores.size() / 2];
        EXPECT_EQ(scanned(simd, blocks, 4, num_blocks, query_codes, exact), scanned(plain, blocks, 4, num_blocks, query_codes, exact));
      }
}

Found signs_scanned(const AnnKernels& simd, const AnnSigns& blocks, std::size_t begin, std::size_t end, const AnnSignQuery& signs, float threshold) {
  const std::size_t room = (end - begin + 1) * 16;
  Found found{std::vector<float>(room), std::vector<std::uint32_t>(room)};
  AnnQuery query{nullptr, 0, 0, threshold, found.scores.data(), found.rows.data(), 0};
  simd.scan_signs(&blocks, begin, end, &signs, &query);
  found.scores.resize(static_cast<std::size_t>(query.count));
  found.rows.resize(static_cast<std::size_t>(query.count));
  return found;
}

TEST_P(AnnKernelsOf, SignScanEqualsThePlainLoops) {
  const AnnKernels& simd = *kernels(GetParam()).ann;
  const AnnKernels& plain = *kernels(Isa::kBaseline).ann;
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (const std::int32_t lines : {1, 4, 12, kSignLinesMax})
    for (const int kind : {0, 1, 2}) {  // as they come, with biases, all entries at their largest
      const std::size_t num_blocks = 9, width = static_cast<std::size_t>(lines);
      std::vector<std::uint8_t> codes(num_blocks * width * 64), tables(width * 128);
      std::vector<float> factors(num_blocks * 16), biases(num_blocks * 16);
      std::vector<std::uint16_t> live(num_blocks);
      for (auto& c : codes) c = static_cast<std::uint8_t>(random());
      for (auto& t : tables) t = static_cast<std::uint8_t>(kind == 2 ? kSignEntryMax : static_cast<int>(random() % (kSignEntryMax + 1)));
      for (auto& f : factors) f = uniform(random);
      for (auto& b : biases) b = -10 * uniform(random);
      for (auto& l : live) l = static_cast<std::uint16_t>(random() % 3 ? random() : 0);
      const AnnSigns blocks{codes.data(), factors.data(), kind == 1 ? biases.data() : nullptr, live.data(), lines};
      const AnnSignQuery query{tables.data(), .01f, 2.5f, .3f};
      const Found all = signs_scanned(plain, blocks, 0, num_blocks, query, -std::numeric_limits<float>::infinity());
      EXPECT_EQ(signs_scanned(simd, blocks, 0, num_blocks, query, -std::numeric_limits<float>::infinity()), all) << lines << ' ' << kind;
      ASSERT_FALSE(all.scores.empty());
      const float middle = all.scores[all.scores.size() / 2];  // keeps its own row out
      EXPECT_EQ(signs_scanned(simd, blocks, 2, num_blocks, query, middle), signs_scanned(plain, blocks, 2, num_blocks, query, middle));
    }
}

TEST_P(AnnKernelsOf, QuantiserEqualsThePlainLoops) {
  const AnnKernels& simd = *kernels(GetParam()).ann;
  const AnnKernels& plain = *kernels(Isa::kBaseline).ann;
  std::mt19937 random(4);
  for (const int dim : {1, 15, 16, 17, 64, 100}) {
    std::vector<float> x(static_cast<std::size_t>(dim));
    for (float& v : x) v = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 16;
    const float most = plain.largest(x.data(), dim);
    EXPECT_EQ(simd.largest(x.data(), dim), most);
    std::vector<std::int8_t> codes(x.size()), expected(x.size());
    simd.quantize(x.data(), dim, 127 / most, codes.data());
    plain.quantize(x.data(), dim, 127 / most, expected.data());
    EXPECT_EQ(codes, expected);
    x.back() = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(simd.largest(x.data(), dim)));
    x.back() = -std::numeric_limits<float>::infinity();
    EXPECT_TRUE(std::isinf(simd.largest(x.data(), dim)));
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, AnnKernelsOf, ::testing::ValuesIn(runnable_isas()), [](const auto& level) { return std::string(isa_name(level.param)); });

}  // namespace
}  // namespace aitems
