// The index beside a writer (run under the thread sanitizer), and the parts of the file format that Python cannot reach.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "ann/filter.hpp"
#include "ann/index.hpp"
#include "base/hash.hpp"
#include "simd/isa.hpp"

namespace aitems {
namespace {

using ann::Index;

std::vector<float> random_rows(std::size_t count, int dim, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(count * static_cast<std::size_t>(dim));
  for (float& x : rows) x = normal(random);
  return rows;
}

std::vector<std::int64_t> ids_from(std::int64_t first, std::size_t count) {
  std::vector<std::int64_t> ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = first + static_cast<std::int64_t>(i);
  return ids;
}

TEST(AnnIndex, SearchesBesideAWriterSeeWholeStates) {
  constexpr int kDim = 12;
  constexpr std::size_t kItems = 600;
  // The last component is the generation and the query sees nothing else, so one search must return one score only.
  auto rows = random_rows(kItems, kDim, 1);
  const auto set_generation = [&](float generation) {
    for (std::size_t i = 0; i < kItems; ++i) rows[i * kDim + kDim - 1] = generation;
  };
  set_generation(0);
  const auto ids = ids_from(0, kItems);
  std::vector<ann::AttributeColumn> attributes(1);
  attributes[0].num_values = 2;
  for (std::size_t i = 0; i <= kItems; ++i) {
    attributes[0].starts.push_back(i);
    if (i < kItems) attributes[0].values.push_back(i % 2);
  }
  ann::BuildOptions options;
  options.lists = 8;
  Index index(ann::build_segment(rows.data(), kItems, kDim, ids.data(), attributes, options), options, {});
  std::atomic<bool> stop{false};
  std::atomic<int> searches{0}, wrong{0};
  std::vector<std::thread> readers;
  for (int r = 0; r < 3; ++r)
    readers.emplace_back([&, r] {
      std::vector<float> queries(4 * kDim, 0.f);
      for (int q = 0; q < 4; ++q) queries[static_cast<std::size_t>(q) * kDim + kDim - 1] = 1;
      ann::SearchOptions search;
      search.k = 50;
      search.threads = 1 + r % 2;
      search.isa = active_isa();
      ann::FilterNode even{ann::FilterNode::Kind::kValues, 0, {0}, {}, {}};
      const ann::FilterProgram program{even};
      std::vector<std::int64_t> found(4 * 50);
      std::vector<float> scores(4 * 50);
      while (!stop) {
        index.search(queries.data(), 4, search, r == 2 ? &program : nullptr, found.data(), scores.data());
        for (std::size_t i = 0; i < found.size(); ++i) wrong += found[i] < 0 || scores[i] != scores[0] || (r == 2 && found[i] % 2);
        ++searches;
      }
    });
  int generation = 0;
  for (; generation < 12 || (searches < 60 && generation < 3000); ++generation) {
    set_generation(static_cast<float>(generation));
    index.upsert(rows.data(), ids.data(), kItems, {});
    if (generation % 3 == 2) index.compact(2);
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(index.snapshot()->size(), kItems);
}

TEST(AnnIndex, WritersTakeTurns) {
  const auto rows = random_rows(100, 4, 2);
  const auto ids = ids_from(0, 100);
  Index index(ann::build_segment(rows.data(), 100, 4, ids.data(), {}, {}), {}, {});
  std::vector<std::thread> writers;
  for (int w = 0; w < 3; ++w)
    writers.emplace_back([&, w] {
      const auto own = ids_from(1000 * (w + 1), 100);
      for (int round = 0; round < 5; ++round) {
        index.upsert(rows.data(), own.data(), 100, {});
        index.erase(own.data(), 50);
        if (w == 0) index.compact(1);
      }
    });
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(index.live_ids().size(), 100u + 3 * 50);
}

TEST(HalfPrecision, RoundsToNearestEvenAndBack) {
  for (std::uint32_t half = 0; half < 0x7c00; ++half) {
    const auto bits = static_cast<std::uint16_t>(half);
    EXPECT_EQ(ann::to_half(ann::from_half(bits)), bits);
    EXPECT_EQ(ann::to_half(-ann::from_half(bits)), bits | 0x8000);
    if (half + 1 == 0x7c00) continue;
    const float low = ann::from_half(bits), high = ann::from_half(static_cast<std::uint16_t>(half + 1)), middle = (low + high) / 2;
    EXPECT_EQ(ann::to_half(middle), half % 2 ? half + 1 : half);
    EXPECT_EQ(ann::to_half(std::nextafter(middle, 0.f)), bits);
    EXPECT_EQ(ann::to_half(std::nextafter(middle, high)), half + 1);
  }
}

TEST(Xxh64, EqualsThePublishedVectors) {
  EXPECT_EQ(xxh64("", 0), 0xEF46DB3751D8E999u);
  EXPECT_EQ(xxh64("a", 1), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(xxh64("abc", 3), 0x44BC2CF5AD770999u);
  const char long_text[] = "Nobody inspects the spammish repetition";
  EXPECT_EQ(xxh64(long_text, sizeof(long_text) - 1), 0xFBCEA83C8A378BF1u);
}

}  // namespace
}  // namespace aitems
