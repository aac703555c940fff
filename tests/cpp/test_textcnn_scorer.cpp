// Model and Scorer from tensors: threads agree, errors are errors. Numbers are compared with the slow twin in tests/unit.
#include "textcnn/scorer.hpp"

#include <gtest/gtest.h>

#include <random>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "textcnn/char_ngrams.hpp"

namespace aitems::textcnn {
namespace {

struct Trained {
  std::vector<std::vector<float>> memory;
  Tensors tensors;
  std::mt19937 random{3};

  void add(const std::string& name, std::vector<int64_t> shape) {
    std::size_t size = 1;
    for (int64_t n : shape) size *= static_cast<std::size_t>(n);
    auto& values = memory.emplace_back(size);
    for (float& v : values) v = std::normal_distribution<float>()(random) / 4;
    tensors[name] = {values.data(), std::move(shape)};
  }
  Trained() {
    memory.reserve(16);
    add("embedding.weight", {30, 6});
    add("title.conv2.weight", {40, 6, 2});
    add("title.conv2.bias", {40});
    add("title.bag.weight", {16, 8});
    add("title.bag.bias", {8});
    add("mall.conv1.weight", {5, 6, 1});
    add("mall.conv1.bias", {5});
    add("head.weight", {70, 53});
    add("head.bias", {70});
  }
};

struct Rows {
  std::vector<int32_t> ids, lengths, grams;
  std::vector<int64_t> splits;
  Inputs inputs;

  explicit Rows(int64_t count) : splits{0} {
    std::mt19937 random(5);
    for (int64_t i = 0; i < count; ++i) {
      for (int t = 0; t < 7; ++t) ids.push_back(static_cast<int32_t>(random() % 30));
      lengths.push_back(static_cast<int32_t>(random() % 8));
      for (auto g = random() % 9; g > 0; --g) grams.push_back(static_cast<int32_t>(random() % 16));
      splits.push_back(static_cast<int64_t>(grams.size()));
    }
    inputs = {count, ids.data(), 7, lengths.data(), grams.data(), static_cast<int64_t>(grams.size()), splits.data(), ids.data(), 7, lengths.data()};
  }
};

std::vector<int32_t> indices_of(const Scorer& scorer, const Rows& rows, int k, int threads) {
  std::vector<int32_t> indices(rows.lengths.size() * static_cast<std::size_t>(k));
  std::vector<float> probabilities(indices.size());
  scorer.top(rows.inputs, k, threads, indices.data(), probabilities.data());
  for (float p : probabilities) {
    EXPECT_GT(p, 0.f);
    EXPECT_LE(p, 1.00001f);
  }
  return indices;
}

TEST(Scorer, ThreadsAndCallersAgree) {
  const Trained trained;
  const Rows rows(450);
  for (const Mode mode : {Mode::kExact, Mode::kInt8})
    for (const Isa isa : runnable_isas()) {
      const Scorer scorer(Model(trained.tensors, mode, isa, 2));
      const auto expected = indices_of(scorer, rows, 5, 1);
      EXPECT_EQ(indices_of(scorer, rows, 5, 3), expected);
      std::vector<std::thread> callers;
      for (int c = 0; c < 3; ++c) callers.emplace_back([&] { EXPECT_EQ(indices_of(scorer, rows, 5, 2), expected); });
      for (auto& t : callers) t.join();
    }
}

TEST(Scorer, AnErrorOnAThreadReachesTheCaller) {
  const Trained trained;
  Rows rows(450);
  rows.ids[449 * 7] = 30;
  rows.lengths[449] = 1;
  const Scorer scorer(Model(trained.tensors, Mode::kInt8, Isa::kBaseline, 1));
  EXPECT_THROW(indices_of(scorer, rows, 5, 3), Error);
  rows.ids[449 * 7] = 29;
  indices_of(scorer, rows, 5, 3);
  EXPECT_THROW(indices_of(scorer, rows, 0, 1), Error);
  EXPECT_THROW(indices_of(scorer, rows, 71, 1), Error);
}

TEST(Model, RefusesWhatDoesNotFit) {
  Trained trained;
  trained.add("fc.weight", {4, 53});
  EXPECT_THROW(Model(trained.tensors, Mode::kExact, Isa::kBaseline, 1), Error);  // fc.bias is missing, head has the wrong depth
}

TEST(CharNgrams, CountsAndBounds) {
  const std::vector<uint8_t> text{'a', 0xEC, 0xBB, 0xB5, ' ', ' ', 0xFF, 0x80, 0x80, 0xE3};
  const std::vector<int64_t> offsets{0, 4, 6, 10};
  const CharNgrams grams = char_ngrams(text.data(), text.size(), offsets.data(), 3, 2, 4, 97, 2);
  EXPECT_EQ(grams.splits, (std::vector<int64_t>{0, 6, 6, 12}));  // " a컵 ": 3 + 2 + 1; nothing; two damaged code points likewise
  for (int32_t id : grams.ids) EXPECT_TRUE(id >= 0 && id < 97);
}

}  // namespace
}  // namespace aitems::textcnn
