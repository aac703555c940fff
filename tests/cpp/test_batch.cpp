// The feature gather against values written out, at its edges, and from several threads at once.
#include "batch/calibration.hpp"
#include "batch/candidates.hpp"
#include "batch/features.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>

#include "base/error.hpp"

namespace aitems::batch {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr std::int64_t kDay = 86'400'000;

// Three items and the unknown one: a code, an attribute, a static column, a statistic, a number.
struct Shop {
  std::vector<std::int32_t> codes{5, 6, 7, 0}, brand{1, 1, 2, -1};
  std::vector<float> statics{0.5f, kNaN, 1e30f, kNaN}, clicks{1, 2, 3, 0}, price{2, 4, kNaN, kNaN};
  std::vector<std::int64_t> registered_at{kDay, 10 * kDay, -1, -1};

  FeaturePlan plan(bool standardised) const {
    FeaturePlan p;
    p.half_lives_ms = {static_cast<double>(kDay)};
    p.last_codes = {0};
    p.contexts = 1;
    p.hour = p.weekday = true;
    p.position_max = 3, p.position_serving = 2;
    p.age = p.recency = p.length = true;
    p.history_max = 3;
    if (standardised) p.center.assign(9, 1.0f), p.scale.assign(9, 2.0f);
    return p;
  }
  FeatureTable table(const FeaturePlan& p) const {
    return {p, 3, {{codes.data()}, {brand.data()}, {statics.data()}, {clicks.data()}, {price.data()}, registered_at.data()}};
  }
};

// One user with events, one without; three candidates and one.
struct Asked {
  std::vector<std::int32_t> history{0, 2, 1, -1}, contexts{4, 9}, candidates{0, 2, -1, 1};
  std::vector<std::int64_t> times{0, 9 * kDay, 10 * kDay, 10 * kDay}, begins{0, 4}, ends{4, 4}, now{11 * kDay, -1}, splits{0, 3, 4};
  Requests requests() const {
    return {2,           history.data(), times.data(), begins.data(), ends.data(), now.data(), contexts.data(), candidates.data(), splits.data(), nullptr, nullptr};
  }
};

TEST(Features, EqualValuesWrittenOut) {
  const Shop shop;
  const Asked asked;
  const FeatureTable table = shop.table(shop.plan(false));
  ASSERT_EQ(table.codes(), 6);
  ASSERT_EQ(table.dense(), 9);
  std::vector<std::int32_t> codes(4 * 6, -7);
  std::vector<float> x(4 * 9, -7);
  const Requests requests = asked.requests();
  table.check(requests, asked.history.size(), asked.candidates.size());
  table.gather(requests, codes.data(), x.data(), 1);
  // of the item, of the newest known item, context, hour, weekday (12 January 1970 was a Monday), position
  EXPECT_EQ(codes, (std::vector<std::int32_t>{5, 6, 4, 1, 1, 2, 7, 6, 4, 1, 1, 2, 0, 6, 4, 1, 1, 2, 6, 0, 9, 0, 0, 2}));
  // of the three newest events two have a brand: 2 two days ago, 1 a day ago
  const float one = std::log1p(0.5), two = std::log1p(0.25), recency = std::log1p(86'400.0), length = std::log1p(4.0);
  const std::vector<float> want{0.5f, 1, std::log1p(10.0f), 0, one, 2.0f / 3, -2, recency, length,  //
                                1e30f, 3, kNaN, 1, two, 1.0f / 3, kNaN, recency, length,            //
                                kNaN, 0, kNaN, 1, 0, 0, kNaN, recency, length,                      //
                                kNaN, 2, kNaN, 1, 0, 0, kNaN, kNaN, 0};
  for (std::size_t i = 0; i < want.size(); ++i)
    if (std::isnan(want[i]))
      EXPECT_TRUE(std::isnan(x[i])) << i;
    else
      EXPECT_FLOAT_EQ(x[i], want[i]) << i;

  shop.table(shop.plan(true)).gather(requests, codes.data(), x.data(), 1);
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_FLOAT_EQ(x[i], std::isnan(want[i]) ? 0.0f : std::min((want[i] - 1) * 2, kLimit)) << i;
}

TEST(Features, TrainingBringsPositionsAndStatistics) {
  const Shop shop;
  const Asked asked;
  const FeatureTable table = shop.table(shop.plan(false));
  const std::vector<float> statistics{11, 12, 13, 14};
  const std::vector<std::int32_t> positions{-5, 0, 3, 99};
  Requests requests = asked.requests();
  requests.statistics = statistics.data(), requests.positions = positions.data();
  std::vector<std::int32_t> codes(4 * 6);
  std::vector<float> x(4 * 9);
  table.gather(requests, codes.data(), x.data(), 1);
  const std::int32_t want[] = {0, 0, 3, 3};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(codes[i * 6 + 5], want[i]);
    EXPECT_EQ(x[i * 9 + 1], statistics[i]);
  }
}

TEST(Features, RefusesWhatDoesNotFit) {
  const Shop shop;
  const FeatureTable table = shop.table(shop.plan(true));
  const auto refused = [&](auto change) {
    Asked asked;
    change(asked);
    EXPECT_THROW(table.check(asked.requests(), 4, 4), Error);
  };
  refused([](Asked& a) { a.candidates[3] = 3; });
  refused([](Asked& a) { a.candidates[3] = -2; });
  refused([](Asked& a) { a.history[3] = 3; });
  refused([](Asked& a) { a.begins[0] = -1; });
  refused([](Asked& a) { a.ends[1] = 5; });
  refused([](Asked& a) { a.ends[1] = 3; });
  refused([](Asked& a) { a.splits = {0, 4, 3}; });
  refused([](Asked& a) { a.splits = {1, 3, 4}; });
  refused([](Asked& a) { a.splits = {0, 3, 5}; });
  Asked beyond;  // an item that is not looked at may be anything: only the newest events count
  beyond.history[0] = 77;
  EXPECT_NO_THROW(table.check(beyond.requests(), 4, 4));

  const auto refused_plan = [&](auto change) {
    FeaturePlan plan = shop.plan(true);
    change(plan);
    EXPECT_THROW(shop.table(plan), Error);
  };
  refused_plan([](FeaturePlan& p) { p.half_lives_ms = {}; });
  refused_plan([](FeaturePlan& p) { p.half_lives_ms = {0}; });
  refused_plan([](FeaturePlan& p) { p.last_codes = {1}; });
  refused_plan([](FeaturePlan& p) { p.history_max = 0; });
  refused_plan([](FeaturePlan& p) { p.position_serving = 4; });
  refused_plan([](FeaturePlan& p) { p.center.pop_back(); });
  refused_plan([](FeaturePlan& p) { p.scale.clear(); });
}

TEST(Features, ManyThreadsShareATable) {
  const Shop shop;
  const FeatureTable table = shop.table(shop.plan(true));
  constexpr std::size_t kRequests = 500;
  std::vector<std::int32_t> history, contexts(kRequests, 1), candidates;
  std::vector<std::int64_t> times, begins, ends, now(kRequests, 20 * kDay), splits{0};
  for (std::size_t r = 0; r < kRequests; ++r) {
    begins.push_back(static_cast<std::int64_t>(history.size()));
    for (std::size_t e = 0; e < r % 7; ++e) history.push_back(static_cast<std::int32_t>((r + e) % 4) - 1), times.push_back(kDay * static_cast<std::int64_t>(e));
    ends.push_back(static_cast<std::int64_t>(history.size()));
    for (std::size_t c = 0; c < r % 5; ++c) candidates.push_back(static_cast<std::int32_t>((r + c) % 4) - 1);
    splits.push_back(static_cast<std::int64_t>(candidates.size()));
  }
  const Requests requests{kRequests,    history.data(),  times.data(),      begins.data(), ends.data(), now.data(),
                          contexts.data(), candidates.data(), splits.data(), nullptr,       nullptr};
  const std::size_t rows = candidates.size();
  std::vector<std::int32_t> want_codes(rows * 6);
  std::vector<float> want(rows * 9);
  table.gather(requests, want_codes.data(), want.data(), 1);
  std::vector<std::thread> callers;
  for (int t = 0; t < 3; ++t)
    callers.emplace_back([&] {
      std::vector<std::int32_t> codes(rows * 6);
      std::vector<float> x(rows * 9);
      table.gather(requests, codes.data(), x.data(), 2);
      EXPECT_EQ(codes, want_codes);
      EXPECT_EQ(x, want);
    });
  for (std::thread& caller : callers) caller.join();
}

TEST(Candidates, MergedOfTwoSourcesAtTheBudget) {
  const std::int32_t first[]{5, 3, -1, 8, 9, 7}, second[]{3, -1, 8, 2};
  const float first_scores[]{3, 2, 0, 1, 0.5f, 0.25f}, second_scores[]{9, 0, 8, 7};
  const Source sources[]{{first, first_scores, 3, 1, 0}, {second, second_scores, 2, 1, 2}};
  std::vector<std::int64_t> splits(3), bits(6);
  std::vector<std::int32_t> items(6), ranks(12);
  std::vector<float> scores(6), source_scores(12);
  merge(2, sources, 2, true, 3, {splits.data(), items.data(), scores.data(), bits.data(), ranks.data(), source_scores.data()});
  EXPECT_EQ(splits, (std::vector<std::int64_t>{0, 2, 5}));
  EXPECT_EQ((std::vector<std::int32_t>(items.begin(), items.begin() + 5)), (std::vector<std::int32_t>{3, 5, 8, 2, 9}));
  EXPECT_FLOAT_EQ(scores[0], static_cast<float>(1.0 / 62 + 1.0 / 61));
  EXPECT_EQ(bits[0], 3);
  EXPECT_EQ(ranks[0], 2);
  EXPECT_EQ(ranks[1], 1);
}

TEST(Candidates, NeighboursAddUpAndWhatWasSeenIsLeftOut) {
  const std::int64_t similar_splits[]{0, 2, 4, 4, 4};
  const std::int32_t similar[]{1, 2, 2, 3};
  const float weights[]{1, 0.5f, 0.25f, 0.125f}, event_weights[]{2, 1};
  const std::int64_t splits[]{0, 2, 2};
  const std::int32_t events[]{0, 1};
  std::int32_t items[6];
  float scores[6];
  similar_items(2, {splits, events}, event_weights, {similar_splits, similar, weights}, true, nullptr, {items, scores, 3});
  EXPECT_EQ((std::vector<std::int32_t>(items, items + 6)), (std::vector<std::int32_t>{2, 3, -1, -1, -1, -1}));
  EXPECT_EQ(scores[0], 1.25f);
  EXPECT_EQ(scores[1], 0.125f);
  std::uint8_t told[6];
  const std::int64_t lists[]{0, 3, 6};
  contained(2, {lists, items}, {splits, events}, told);
  EXPECT_EQ(told[0], 0);
}

TEST(Calibration, IsLinearBetweenKnotsAndHasSlopeOneBeyond) {
  const double given[] = {-1, 1, 4}, calibrated[] = {-2, 0, 1};
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> logits{-3, -1, 0, 1, 2.5, 4, 6, infinity, -infinity, std::nan("")}, want{-4, -2, -1, 0, 0.5, 1, 3};
  std::vector<float> out(logits.size());
  calibrated_probabilities(logits.data(), logits.size(), {given, calibrated, 3}, out.data());
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_FLOAT_EQ(out[i], static_cast<float>(1 / (1 + std::exp(-want[i])))) << logits[i];
  EXPECT_EQ(out[7], 1);
  EXPECT_EQ(out[8], 0);
  EXPECT_TRUE(std::isnan(out[9]));
  calibrated_probabilities(logits.data(), logits.size(), {given, calibrated, 1}, out.data());  // one knot: a shift by -1
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_FLOAT_EQ(out[i], static_cast<float>(1 / (1 + std::exp(1 - logits[i])))) << logits[i];
}

}  // namespace
}  // namespace aitems::batch
