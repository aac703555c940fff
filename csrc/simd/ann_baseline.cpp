// Plain loops: the level that runs everywhere, and what the others are compared with.
#include <cstring>

#include "simd/ann_kernels.hpp"

namespace {

constexpr int kLanes = 16;

float sum_of(float* lanes) {
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  return lanes[0];
}

float widen(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  std::uint32_t exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu, bits;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, which a float holds exactly
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    std::memcpy(&bits, &value, sizeof(bits));
    bits |= sign;
  } else {
    bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
  }
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

float dot_one(const float* query, const float* row, std::int32_t stride) {
  float lanes[kLanes] = {};
  for (std::int32_t d = 0; d < stride; d += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] += query[d + l] * row[d + l];
  return sum_of(lanes);
}

float distance_one(const float* query, const float* row, std::int32_t stride) {
  float lanes[kLanes] = {};
  for (std::int32_t d = 0; d < stride; d += kLanes)
    for (int l = 0; l < kLanes; ++l) {
      const float difference = query[d + l] - row[d + l];
      lanes[l] += difference * difference;
    }
  return -sum_of(lanes);
}

float dot_half_one(const float* query, const std::uint16_t* row, std::int32_t stride) {
  float lanes[kLanes] = {};
  for (std::int32_t d = 0; d < stride; d += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] += query[d + l] * widen(row[d + l]);
  return sum_of(lanes);
}

float distance_half_one(const float* query, const std::uint16_t* row, std::int32_t stride) {
  float lanes[kLanes] = {};
  for (std::int32_t d = 0; d < stride; d += kLanes)
    for (int l = 0; l < kLanes; ++l) {
      const float difference = query[d + l] - widen(row[d + l]);
      lanes[l] += difference * difference;
    }
  return -sum_of(lanes);
}

}  // namespace

#include "simd/ann_quantize.inc"
#include "simd/ann_rows.inc"

namespace {

void append(aitems::AnnQuery* query, float score, std::uint32_t row) {
  query->scores[query->count] = score;
  query->rows[query->count++] = row;
}

void collect(const float* scores, std::size_t count, std::uint32_t first_row, const std::uint16_t* live, aitems::AnnQuery* query) {
  for (std::size_t i = 0; i < count; ++i)
    if (scores[i] > query->threshold && (live[i / kLanes] >> (i % kLanes) & 1))
      append(query, scores[i], first_row + static_cast<std::uint32_t>(i));
}

void scan(const aitems::AnnBlocks* blocks, std::size_t begin, std::size_t end, aitems::AnnQuery* queries, std::int32_t num_queries) {
  const std::int32_t dim = blocks->code_dim;
  for (std::size_t b = begin; b < end; ++b) {
    if (!blocks->live[b]) continue;
    const std::uint8_t* codes = blocks->codes + b * static_cast<std::size_t>(dim) * kLanes;
    for (std::int32_t q = 0; q < num_queries; ++q) {
      std::int32_t sums[kLanes];
      for (int r = 0; r < kLanes; ++r) sums[r] = -queries[q].correction;
      for (std::int32_t g = 0; g < dim / 4; ++g)
        for (int r = 0; r < kLanes; ++r)
          for (int d = 0; d < 4; ++d) sums[r] += codes[g * 64 + r * 4 + d] * queries[q].codes[g * 4 + d];
      for (int r = 0; r < kLanes; ++r) {
        float score = static_cast<float>(sums[r]) * blocks->scales[b * kLanes + r];
        if (blocks->biases) score += blocks->biases[b * kLanes + r] * queries[q].bias_factor;
        if (score > queries[q].threshold && (blocks->live[b] >> r & 1))
          append(&queries[q], score, static_cast<std::uint32_t>(b * kLanes) + static_cast<std::uint32_t>(r));
      }
    }
  }
}

void scan_signs(const aitems::AnnSigns* blocks, std::size_t begin, std::size_t end, const aitems::AnnSignQuery* signs, aitems::AnnQuery* query) {
  const std::size_t bytes = static_cast<std::size_t>(blocks->lines) * 64;
  for (std::size_t b = begin; b < end; ++b) {
    if (!blocks->live[b]) continue;
    for (std::size_t r = 0; r < kLanes; ++r) {
      std::int32_t sum = 0;
      for (std::size_t at = 0; at < bytes; at += 16) {
        const std::uint8_t code = blocks->codes[b * bytes + at + r];
        const std::uint8_t* table = signs->tables + at / 64 * 128 + at % 64;
        sum += table[code & 15] + table[64 + (code >> 4)];
      }
      const std::size_t row = b * kLanes + r;
      float score = (static_cast<float>(sum) * signs->step - signs->offset) * blocks->factors[row] + signs->base;
      if (blocks->biases) score += blocks->biases[row];
      if (score > query->threshold && (blocks->live[b] >> r & 1)) append(query, score, static_cast<std::uint32_t>(row));
    }
  }
}

void cut(aitems::AnnQuery* query, std::int32_t keep) {
  const std::int32_t count = query->count;
  if (count <= keep) return;
  float low = query->scores[0], high = low, good = query->threshold;
  for (std::int32_t i = 1; i < count; ++i) {
    low = query->scores[i] < low ? query->scores[i] : low;
    high = query->scores[i] > high ? query->scores[i] : high;
  }
  for (int round = 0; round < 10; ++round) {
    const float middle = .5f * (low + high);
    std::int32_t above = 0;
    for (std::int32_t i = 0; i < count; ++i) above += query->scores[i] > middle;
    if (above >= keep) {
      low = good = middle;
    } else {
      high = middle;
    }
  }
  query->threshold = good;
  query->count = 0;
  for (std::int32_t i = 0; i < count; ++i)
    if (query->scores[i] > good) append(query, query->scores[i], query->rows[i]);
}

}  // namespace

namespace aitems {
extern const AnnKernels kAnn_baseline;
const AnnKernels kAnn_baseline = {over_rows<float, dot_one>,
                                  over_rows<float, distance_one>,
                                  over_rows<std::uint16_t, dot_half_one>,
                                  over_rows<std::uint16_t, distance_half_one>,
                                  largest,
                                  quantize,
                                  collect,
                                  scan,
                                  scan_signs,
                                  cut,
                                  nothing,
                                  nothing};
}  // namespace aitems
