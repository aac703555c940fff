// Kernels of csrc/rerank against sums written out, the same orders at every level, and pages at the edges of what they take.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "rerank/diversity.hpp"
#include "rerank/page.hpp"
#include "simd/kernels.hpp"
#include "simd/rerank_kernels.hpp"

namespace aitems {
namespace {

class Rerank : public ::testing::TestWithParam<Isa> {};

TEST_P(Rerank, KernelsAreExactOnSmallIntegers) {
  const RerankKernels& k = *kernels(GetParam()).rerank;
  for (std::size_t groups : {0u, 1u, 2u, 5u}) {
    const std::size_t dim = groups * kRerankGroup;
    std::vector<float> a(dim), b(dim);
    float sum = 0;
    for (std::size_t i = 0; i < dim; ++i) {
      a[i] = static_cast<float>(static_cast<int>(i * 7 % 5) - 2);
      b[i] = static_cast<float>(static_cast<int>(i * 11 % 7) - 3);
      sum += a[i] * b[i];
    }
    EXPECT_EQ(k.dot(a.data(), b.data(), groups), sum);
  }
  for (std::size_t dim : {0u, 1u, 7u, 8u, 33u}) {
    std::vector<double> x(dim), y(dim);
    for (std::size_t i = 0; i < dim; ++i) x[i] = static_cast<double>(i), y[i] = static_cast<double>(i % 3);
    k.subtract(2, y.data(), x.data(), dim);
    for (std::size_t i = 0; i < dim; ++i) EXPECT_EQ(x[i], static_cast<double>(i) - 2.0 * static_cast<double>(i % 3));
    k.rotate(0.5, 0.25, x.data(), y.data(), dim);
    for (std::size_t i = 0; i < dim; ++i) {
      const double was = static_cast<double>(i) - 2.0 * static_cast<double>(i % 3), other = static_cast<double>(i % 3);
      EXPECT_EQ(x[i], 0.5 * was + 0.25 * other);
      EXPECT_EQ(y[i], 0.5 * other - 0.25 * was);
    }
  }
}

TEST_P(Rerank, OrdersAreThoseOfTheBaseline) {
  constexpr std::size_t kRows = 90, kDim = 45;
  std::vector<float> data(kRows * kDim);
  std::uint32_t state = 1;
  for (float& value : data) value = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.5f;
  std::vector<std::int32_t> rows(kRows);
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<double> relevance(kRows);
  for (std::size_t i = 0; i < kRows; ++i) relevance[i] = 1 - static_cast<double>(i) / kRows;
  const Vectors vectors{data.data(), kDim, rows.data(), nullptr};
  const auto same = [&](auto order) { EXPECT_EQ(order(GetParam()), order(Isa::kBaseline)); };
  same([&](Isa isa) { return mmr(relevance.data(), kRows, vectors, 40, 0.5, 0.3, isa); });
  same([&](Isa isa) { return dpp(relevance.data(), kRows, vectors, 60, 0.5, 0.3, 1000, 1e-5, isa); });
  same([&](Isa isa) { return dpp(relevance.data(), kRows, vectors, 60, 0.5, 0.3, 7, 1e-5, isa); });
}

INSTANTIATE_TEST_SUITE_P(Levels, Rerank, ::testing::ValuesIn(runnable_isas()),
                         [](const auto& level) { return std::string(isa_name(level.param)); });

TEST(RerankDpp, CopiesComeLastAndNeverEnd) {
  const std::vector<float> data{1, 0, 1, 0, 0, 1, 0, 0};  // two copies, another direction, nothing at all
  const std::vector<std::int32_t> rows{0, 1, 2, 3};
  const std::vector<double> relevance{1, 0.9, 0.1, 0.0};
  const Vectors vectors{data.data(), 2, rows.data(), nullptr};
  for (std::size_t window : {2u, 1000u})
    EXPECT_EQ(dpp(relevance.data(), 4, vectors, 3, 0.5, 0.3, window, 1e-5, active_isa())[0], 0);
  EXPECT_EQ(dpp(relevance.data(), 4, vectors, 4, 0.5, 0.3, 1000, 1e-5, active_isa()), (std::vector<std::int32_t>{0, 2, 3}));
  EXPECT_TRUE(dpp(relevance.data(), 0, vectors, 4, 0.5, 0.3, 1000, 1e-5, active_isa()).empty());
}

struct Slate {
  explicit Slate(std::size_t n, std::size_t k) : weights(k, 1), items(n), organic(n), scores(n), levels(n, 0) {
    std::iota(items.begin(), items.end(), 0);
    std::iota(organic.begin(), organic.end(), 0);
    for (std::size_t i = 0; i < n; ++i) scores[i] = static_cast<double>(n - i);
    input.k = k;
    input.weights = weights.data();
    input.items = items.data();
    input.scores = scores.data();
    input.organic = organic.data();
    input.organic_count = n;
    input.levels = levels.data();
  }
  std::vector<double> weights;
  std::vector<std::int32_t> items, organic;
  std::vector<double> scores;
  std::vector<std::uint8_t> levels;
  PageInput input;
};

TEST(RerankPage, GivesUpRulesOnlyWhereNobodyFits) {
  Slate slate(4, 4);
  const std::vector<std::int32_t> codes{5, 5, 5, 6};
  slate.input.spacings.push_back({codes.data(), 1, 2, 1});
  slate.input.relax_levels = 1;
  const Page page = fill_page(slate.input);
  EXPECT_EQ(page.rows, (std::vector<std::int64_t>{0, 3, 1, 2}));
  EXPECT_EQ(page.relaxed, (std::vector<std::uint8_t>{0, 0, 0, 1}));
  slate.input.relax_levels = 0;
  EXPECT_EQ(fill_page(slate.input).rows.size(), 3u);
}

TEST(RerankPage, ColdItemsComeWhenTheirShareIsDue) {
  Slate slate(10, 10);
  const std::vector<std::uint8_t> cold{0, 0, 0, 0, 0, 0, 0, 0, 1, 1};
  ColdQuota quota{cold.data(), 0.2, 0.1, 0};
  slate.input.cold = &quota;
  const Page page = fill_page(slate.input);
  EXPECT_EQ(page.rows[4], 8);
  EXPECT_EQ(page.rows[9], 9);
  EXPECT_DOUBLE_EQ(page.cold_share, 0.2);
  quota.quality_floor = 1;
  EXPECT_GT(fill_page(slate.input).cold_missed, 0u);
}

TEST(RerankPage, AdsKeepGapAndBudget) {
  Slate slate(8, 6);
  slate.input.organic_count = 6;
  const std::vector<std::int32_t> ads{6, 7};
  const std::vector<float> pctr(8, 1.0f), bid(8, 100.0f);
  slate.input.ads = ads.data();
  slate.input.ads_count = 2;
  slate.input.pctr = pctr.data();
  slate.input.bid = bid.data();
  AdRules rules{2, 5, std::numeric_limits<double>::infinity(), 1, 1};
  slate.input.ad_rules = &rules;
  EXPECT_EQ(fill_page(slate.input).is_ad, (std::vector<std::uint8_t>{0, 1, 0, 0, 1, 0}));
  rules.organic_loss_budget = 0;
  EXPECT_EQ(fill_page(slate.input).is_ad, (std::vector<std::uint8_t>(6, 0)));
}

TEST(RerankPage, ExplorationDrawsWithTheProbabilitiesItReports) {
  Slate slate(4, 1);
  const std::vector<std::int32_t> pool{0, 1, 2, 3};
  const std::vector<double> chance{0.7, 0.2, 0.1, 0.0};
  const std::vector<std::uint8_t> slots{1};
  Exploration rule{pool.data(), chance.data(), 4, slots.data(), 1, 0.05, 0.6, 0};
  slate.input.exploration = &rule;
  std::vector<int> drawn(4, 0);
  std::vector<float> reported(4, 0);
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) {
    rule.seed = static_cast<std::uint64_t>(i) * 77;
    const Page page = fill_page(slate.input);
    const auto row = static_cast<std::size_t>(page.rows[0]);
    ++drawn[row];
    reported[row] = page.propensity[0];
  }
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(drawn[i] / static_cast<double>(kDraws), reported[i], 0.01);
  EXPECT_FLOAT_EQ(reported[0], 0.6f);   // the ceiling: 0.05 + 0.8 * 0.7 = 0.61 is above it
  EXPECT_NEAR(std::accumulate(reported.begin(), reported.end(), 0.0f), 1.0f, 1e-5f);
  EXPECT_GE(reported[3], 0.05f);
}

}  // namespace
}  // namespace aitems
