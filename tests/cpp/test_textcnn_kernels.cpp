// The text classifier's kernels of every ISA level this machine runs, against their definition in plain loops.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "simd/kernels.hpp"
#include "simd/textcnn_kernels.hpp"

namespace aitems {
namespace {

using std::size_t;

struct Data {
  std::mt19937 random{7};
  float real() { return std::normal_distribution<float>()(random); }
  int below(int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); }
};

class TextCnnKernelsOf : public ::testing::TestWithParam<Isa> {
 protected:
  const TextCnnKernels& kernel = *kernels(GetParam()).textcnn;
  Data data;
};

template <class Element>
void check_conv(Data& data, void (*conv)(const TextCnnConv&, const int32_t*, int, float*), int width, int filters, int length) {
  const int tokens = 9, stride = width * filters + 32;
  AlignedBuffer<Element> table(static_cast<size_t>(tokens * stride));
  for (size_t i = 0; i < table.size(); ++i)
    table[i] = std::is_same_v<Element, float> ? static_cast<Element>(data.real()) : static_cast<Element>(data.below(255) - 127);
  AlignedBuffer<float> scale(static_cast<size_t>(filters)), bias(static_cast<size_t>(filters)), out(static_cast<size_t>(filters));
  for (size_t f = 0; f < bias.size(); ++f) scale[f] = 1e-3f * static_cast<float>(1 + data.below(9)), bias[f] = data.real();
  std::vector<int32_t> ids(static_cast<size_t>(length));
  for (auto& id : ids) id = data.below(tokens);
  conv({table.data(), static_cast<size_t>(stride), width, filters, std::is_same_v<Element, float> ? nullptr : scale.data(), bias.data()}, ids.data(), length,
       out.data());
  for (int f = 0; f < filters; ++f) {
    double best = -std::numeric_limits<double>::infinity();
    for (int t = 0; t < length; ++t) {
      double sum = 0;
      for (int j = 0; j < width && t + j < length; ++j) sum += table[static_cast<size_t>(ids[static_cast<size_t>(t + j)] * stride + j * filters + f)];
      best = std::max(best, sum);
    }
    const auto at = static_cast<size_t>(f);
    const double expected = length ? std::max(0., best * (std::is_same_v<Element, float> ? 1. : static_cast<double>(scale[at])) + static_cast<double>(bias[at])) : 0.;
    ASSERT_NEAR(out[at], expected, 1e-5 * (1 + std::fabs(expected))) << "width " << width << ", filters " << filters << ", length " << length << ", filter " << f;
  }
}

TEST_P(TextCnnKernelsOf, ConvolutionsEqualTheDefinition) {
  for (int width : {1, 2, 5, 16})
    for (int filters : {32, 64, 96, 256, 288})
      for (int length : {0, 1, 2, 5, 17}) {
        check_conv<float>(data, kernel.conv_f32, width, filters, length);
        check_conv<int8_t>(data, kernel.conv_i8, width, filters, length);
      }
}

TEST_P(TextCnnKernelsOf, BagsEqualTheDefinition) {
  for (int columns : {32, 64, 96, 160})
    for (int count : {0, 1, 7, 255, 256, 257, 1000}) {
      AlignedBuffer<float> table(static_cast<size_t>(50 * columns)), scale(static_cast<size_t>(columns)), bias(static_cast<size_t>(columns)), out(static_cast<size_t>(columns));
      AlignedBuffer<int8_t> codes(table.size());
      for (size_t i = 0; i < table.size(); ++i) table[i] = data.real(), codes[i] = static_cast<int8_t>(i % 3 ? data.below(255) - 127 : 127);
      for (size_t c = 0; c < bias.size(); ++c) scale[c] = 1e-2f * static_cast<float>(1 + data.below(9)), bias[c] = data.real();
      std::vector<int32_t> ids(static_cast<size_t>(count));
      for (auto& id : ids) id = data.below(50);
      for (const bool integer : {false, true}) {
        if (integer)
          kernel.bag_i8({codes.data(), columns, scale.data(), bias.data()}, ids.data(), count, out.data());
        else
          kernel.bag_f32({table.data(), columns, nullptr, bias.data()}, ids.data(), count, out.data());
        for (size_t c = 0; c < bias.size(); ++c) {
          double sum = 0;
          for (int32_t id : ids) {
            const size_t at = static_cast<size_t>(id * columns) + c;
            sum += integer ? codes[at] * static_cast<double>(scale[c]) : static_cast<double>(table[at]);
          }
          const double expected = std::max(0., sum / std::sqrt(std::max(1., static_cast<double>(count))) + static_cast<double>(bias[c]));
          ASSERT_NEAR(out[c], expected, 2e-5 * (1 + std::fabs(expected)));
        }
      }
    }
}

TEST_P(TextCnnKernelsOf, CodesAreTheNearest) {
  AlignedBuffer<float> features(192);
  std::vector<uint8_t> codes(192);
  EXPECT_EQ(kernel.quantize(features.data(), 192, codes.data()), 0.f);
  EXPECT_EQ(*std::max_element(codes.begin(), codes.end()), 0);
  for (size_t k = 0; k < 192; ++k) features[k] = std::max(0.f, data.real());
  const float scale = kernel.quantize(features.data(), 192, codes.data());
  const float largest = *std::max_element(features.data(), features.data() + 192);
  const float most = GetParam() == Isa::kV3 ? 127.f : 255.f;  // vpmaddubsw saturates with more
  EXPECT_FLOAT_EQ(scale * most, largest);
  for (size_t k = 0; k < 192; ++k) EXPECT_LE(std::fabs(static_cast<float>(codes[k]) * scale - features[k]), scale * 0.501f);
}

struct Logits {
  TextCnnProduct product{};
  AlignedBuffer<float> rows_f32, weights_f32, bias, row_scale, column_scale;
  AlignedBuffer<uint8_t> rows_i8;
  AlignedBuffer<int8_t> weights_i8;
  std::vector<std::vector<double>> expected;

  Logits(Data& data, bool integer, int count, int depth, int columns, bool extreme) {
    const int panels = (columns + 31) / 32;
    const auto padded = static_cast<size_t>(panels * 32), n = static_cast<size_t>(count), d = static_cast<size_t>(depth);
    const int row_most = extreme ? 127 : 100;  // what vpmaddubsw takes at full-size weights
    rows_f32 = AlignedBuffer<float>(n * d);
    rows_i8 = AlignedBuffer<uint8_t>((n + 31) / 32 * 32 * d);
    weights_f32 = AlignedBuffer<float>(padded * d);
    weights_i8 = AlignedBuffer<int8_t>(padded * d);
    bias = AlignedBuffer<float>(padded);
    row_scale = AlignedBuffer<float>(n);
    column_scale = AlignedBuffer<float>(padded);
    for (size_t i = 0; i < n * d; ++i) rows_f32[i] = data.real(), rows_i8[i] = static_cast<uint8_t>(extreme ? row_most : data.below(row_most + 1));
    for (size_t i = 0; i < n; ++i) row_scale[i] = 1e-2f * static_cast<float>(1 + data.below(5));
    expected.assign(n, std::vector<double>(static_cast<size_t>(columns)));
    for (size_t c = 0; c < padded; ++c) {
      const bool real = c < static_cast<size_t>(columns);
      bias[c] = real ? data.real() : -std::numeric_limits<float>::max();
      column_scale[c] = 1e-3f * static_cast<float>(1 + data.below(5));
      for (size_t k = 0; real && k < d; ++k) {
        const float f = data.real() / 8;
        const auto q = static_cast<int8_t>(extreme ? (c % 2 ? -127 : 127) : data.below(255) - 127);
        weights_f32[(c / 32 * d + k) * 32 + c % 32] = f;
        weights_i8[c / 32 * 32 * d + k / 64 * 2048 + c % 32 / 16 * 1024 + k % 64 / 4 * 64 + c % 16 * 4 + k % 4] = q;
        for (size_t i = 0; i < n; ++i) expected[i][c] += integer ? rows_i8[i * d + k] * static_cast<double>(q) : static_cast<double>(rows_f32[i * d + k]) * static_cast<double>(f);
      }
      for (size_t i = 0; real && i < n; ++i) {
        if (integer) expected[i][c] *= static_cast<double>(row_scale[i]) * static_cast<double>(column_scale[c]);
        expected[i][c] += static_cast<double>(bias[c]);
      }
    }
    product = {integer ? static_cast<const void*>(rows_i8.data()) : rows_f32.data(), d, count, depth,
               integer ? static_cast<const void*>(weights_i8.data()) : weights_f32.data(), panels, bias.data(), row_scale.data(), column_scale.data()};
  }
};

TEST_P(TextCnnKernelsOf, ProductsEqualTheDefinition) {
  for (const bool integer : {false, true})
    for (int count : {1, 2, 3, 4, 5, 6, 7, 16, 33, 97, 193})
      for (int columns : {1, 32, 45, 100})
        for (int depth : {64, 320}) {
          const bool extreme = count == 7;
          Logits l(data, integer, count, depth, columns, extreme);
          const auto stride = static_cast<size_t>(l.product.panels * 32);
          std::vector<float> out(static_cast<size_t>(count) * stride);
          (integer ? kernel.product_i8 : kernel.product_f32)(l.product, out.data(), stride);
          const int k = std::min(columns, 7);
          AlignedBuffer<TextCnnTop> tops(static_cast<size_t>(count));
          for (size_t i = 0; i < tops.size(); ++i) tops[i].k = k, tops[i].threshold = -std::numeric_limits<float>::infinity();
          (integer ? kernel.top_i8 : kernel.top_f32)(l.product, tops.data());
          for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
            double sum = 0;
            for (size_t c = 0; c < static_cast<size_t>(columns); ++c) {
              ASSERT_NEAR(out[i * stride + c], l.expected[i][c], 1e-4 * (1 + std::fabs(l.expected[i][c]))) << "row " << i << ", column " << c;
              sum += std::exp(static_cast<double>(out[i * stride + c] - tops[i].reference));
            }
            std::vector<int32_t> order(static_cast<size_t>(columns));
            for (size_t c = 0; c < order.size(); ++c) order[c] = static_cast<int32_t>(c);
            std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return out[i * stride + static_cast<size_t>(a)] > out[i * stride + static_cast<size_t>(b)]; });
            for (int j = 0; j < k; ++j) {
              ASSERT_EQ(tops[i].indices[j], order[static_cast<size_t>(j)]);
              ASSERT_EQ(tops[i].values[j], out[i * stride + static_cast<size_t>(order[static_cast<size_t>(j)])]);
            }
            double lanes = 0;
            for (float lane : tops[i].sums) lanes += static_cast<double>(lane);
            ASSERT_NEAR(lanes, sum, 1e-5 * sum);
          }
        }
}

INSTANTIATE_TEST_SUITE_P(Levels, TextCnnKernelsOf, ::testing::ValuesIn(runnable_isas()), [](const auto& level) { return std::string(isa_name(level.param)); });

}  // namespace
}  // namespace aitems
