// The index beside a writer (run under the thread sanitizer), and the parts of the file format that Python cannot reach.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "ann/filter.hpp"
#include "ann/index.hpp"
#include "ann/merge.hpp"
#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/thread_pool.hpp"
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

void compact(Index& index, int threads) {
  ann::Merge merge(index);
  merge.build(index.options().lists, index.options().degree, index.options().signs, threads);
  index.adopt(merge.from(), *merge.built());
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
  options.degree = 6;
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
      if (r == 1) search.form = ann::Form::kGraph;
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
    if (generation % 3 == 2) compact(index, 2);
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
        if (w == 0) compact(index, 1);
      }
    });
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(index.live_ids().size(), 100u + 3 * 50);
}

// Readers, a writer and a thread that merges without end. The writer moves all items to the next generation in one call, and deletes
// and adds again what lies above, so that a merge always has something to carry over.
TEST(AnnIndex, MergesBesideReadersAndAWriter) {
  constexpr int kDim = 8;
  constexpr std::size_t kItems = 300, kMore = 1500;
  auto rows = random_rows(kItems, kDim, 3);
  const auto more = random_rows(kMore, kDim, 4);
  const auto set_generation = [&](float generation) {
    for (std::size_t i = 0; i < kItems; ++i) rows[i * kDim + kDim - 1] = generation;
  };
  set_generation(1000);
  const auto ids = ids_from(0, kItems), more_ids = ids_from(5000, kMore);
  ann::BuildOptions options;
  options.lists = 8;
  Index index(ann::build_segment(rows.data(), kItems, kDim, ids.data(), {}, options), options, {});
  std::atomic<bool> stop{false};
  std::atomic<int> searches{0}, wrong{0}, merges{0};
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&] {
      std::vector<float> query(kDim, 0.f);
      query[kDim - 1] = 1;
      ann::SearchOptions search;
      search.k = kItems;
      search.isa = active_isa();
      std::vector<std::int64_t> found(kItems);
      std::vector<float> scores(kItems);
      while (!stop) {
        index.search(query.data(), 1, search, nullptr, found.data(), scores.data());
        for (std::size_t i = 0; i < kItems; ++i) wrong += found[i] != static_cast<std::int64_t>(i) || scores[i] != scores[0];
        ++searches;
      }
    });
  threads.emplace_back([&] {
    while (!stop) {
      compact(index, 1);
      ++merges;
    }
  });
  int generation = 1000;
  for (; (searches < 60 || merges < 20) && generation < 6000; ++generation) {
    set_generation(static_cast<float>(generation));
    index.upsert(rows.data(), ids.data(), kItems, {});
    const std::size_t some = 1 + static_cast<std::size_t>(generation) * 37 % kMore;
    index.upsert(more.data(), more_ids.data(), some, {});
    index.erase(more_ids.data(), some / 2);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_GE(merges.load(), 20);
  const auto before = index.live_ids();
  compact(index, 1);
  EXPECT_TRUE(index.snapshot()->packed());
  EXPECT_EQ(index.live_ids(), before);
}

TEST(AnnIndex, WhatIsWrittenDuringAMergeIsCarriedOver) {
  constexpr int kDim = 4;
  for (const std::size_t added : {0u, 5u, 1024u, 1030u}) {  // rows of the delta before the merge: none, part of a chunk, one, more
    const std::size_t count = 100 + added;
    const auto rows = random_rows(count + 3000, kDim, 5);
    const auto ids = ids_from(0, count + 3000);
    ann::BuildOptions options;
    options.lists = 4;
    Index index(ann::build_segment(rows.data(), 100, kDim, ids.data(), {}, options), options, {});
    index.upsert(rows.data() + 100 * kDim, ids.data() + 100, added, {});
    const std::int64_t before[] = {3, 100};
    index.erase(before, 2);
    ann::Merge merge(index);
    merge.build(4, 0, false, 1);
    const std::int64_t during[] = {7, 101, 3};
    index.erase(during, 3);
    index.upsert(rows.data() + count * kDim, ids.data() + count, 2000, {});
    index.upsert(rows.data(), ids.data() + 8, 1, {});  // another vector for an item of the merge
    const auto expected = index.live_ids();
    index.adopt(merge.from(), *merge.built());
    EXPECT_EQ(index.live_ids(), expected);
    EXPECT_THROW(index.adopt(merge.from(), *merge.built()), Error);
    std::vector<float> held(kDim);
    EXPECT_TRUE(index.vectors(ids.data() + 8, 1, held.data())[0]);
    EXPECT_EQ(held, std::vector<float>(rows.begin(), rows.begin() + kDim));
    EXPECT_FALSE(index.vectors(during, 1, held.data())[0]);
    EXPECT_EQ(index.erase(ids.data() + count + 1999, 1), 1u);  // the writer knows the rows it carried over
    EXPECT_EQ(index.upsert(rows.data(), ids.data(), 10, {}), 8u);
    compact(index, 1);
    EXPECT_EQ(index.live_ids().size(), expected.size() + 1);  // less the one, and 3 and 7 are back
  }
}

TEST(AnnIndex, AMergeCanBeGivenUp) {
  const auto rows = random_rows(2000, 8, 6);
  const auto ids = ids_from(0, 2000);
  Index index(ann::build_segment(rows.data(), 1000, 8, ids.data(), {}, {}), {}, {});
  index.upsert(rows.data(), ids.data(), 2000, {});
  ann::Merge merge(index);
  merge.cancel();
  EXPECT_THROW(merge.build(16, 8, false, 2), Cancelled);
  EXPECT_EQ(merge.built(), nullptr);
  EXPECT_EQ(index.live_ids(), ids);
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
