#include "ann/segment.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>

#include "ann/check.hpp"
#include "ann/kmeans.hpp"
#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "simd/kernels.hpp"

namespace aitems::ann {
namespace {

struct Layout {
  std::vector<std::uint32_t> row_item;     // row -> item, kNone for padding
  std::vector<std::uint32_t> list_blocks;  // lists + 1
};
constexpr std::uint32_t kNone = 0xffffffffu;

float half_norm(const float* x, int dim) {
  double sum = 0;
  for (int d = 0; d < dim; ++d) sum += static_cast<double>(x[d]) * x[d];
  return static_cast<float>(sum / 2);
}

Layout one_run(const std::int64_t* ids, std::size_t count) {
  Layout layout;
  layout.row_item.resize(count);
  std::iota(layout.row_item.begin(), layout.row_item.end(), 0u);
  std::sort(layout.row_item.begin(), layout.row_item.end(), [&](std::uint32_t a, std::uint32_t b) { return ids[a] < ids[b]; });
  layout.row_item.resize((count + kBlockRows - 1) / kBlockRows * kBlockRows, kNone);
  return layout;
}

// Lists one after the other; inside a list the longest vectors first (inner product), so that a scan can stop early, and among those
// of about one length (to 1.5 %) the largest scales first, so that those that share one have similar ones.
Layout in_lists(const std::vector<std::uint32_t>& nearest, int lists, const std::vector<float>& half_norms, const std::vector<float>& own_scales,
                const std::int64_t* ids, bool by_norm) {
  std::vector<std::vector<std::uint32_t>> members(static_cast<std::size_t>(lists));
  for (std::size_t i = 0; i < nearest.size(); ++i) members[nearest[i]].push_back(static_cast<std::uint32_t>(i));
  Layout layout;
  layout.list_blocks.push_back(0);
  for (auto& list : members) {
    std::sort(list.begin(), list.end(), [&](std::uint32_t a, std::uint32_t b) {
      const std::uint32_t length_a = by_norm ? std::bit_cast<std::uint32_t>(half_norms[a]) >> 18 : 0;
      const std::uint32_t length_b = by_norm ? std::bit_cast<std::uint32_t>(half_norms[b]) >> 18 : 0;
      if (length_a != length_b) return length_a > length_b;
      return own_scales[a] != own_scales[b] ? own_scales[a] > own_scales[b] : ids[a] < ids[b];
    });
    layout.row_item.insert(layout.row_item.end(), list.begin(), list.end());
    layout.row_item.resize((layout.row_item.size() + kBlockRows - 1) / kBlockRows * kBlockRows, kNone);
    layout.list_blocks.push_back(static_cast<std::uint32_t>(layout.row_item.size() / kBlockRows));
  }
  return layout;
}

template <class T>
Column<T> column_of(const std::vector<T>& values) {
  AlignedBuffer<T> buffer(values.size());
  if (!values.empty()) std::memcpy(buffer.data(), values.data(), values.size() * sizeof(T));
  return Column<T>(std::move(buffer));
}

// Packs rows into blocks. vector_of(row) is null for padding. In each run of blocks [starts[i], starts[i + 1]) every four blocks get
// the largest of their rows' scales.
template <class VectorOf>
CodeTable pack(std::size_t rows, int dim, bool with_bias, const std::vector<std::uint32_t>& starts, int threads, const VectorOf& vector_of) {
  const AnnKernels& simd = *kernels(active_isa()).ann;
  const int code_dim = padded_code_dim(dim);
  AlignedBuffer<std::uint8_t> codes(rows * static_cast<std::size_t>(code_dim));
  AlignedBuffer<float> scales(rows), biases(with_bias ? rows : 0);
  parallel_for(starts.size() - 1, 16, threads, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t i = begin; i < end; ++i)
      for (std::size_t b = starts[i]; b < starts[i + 1]; b += kScaleBlocks) {
        const std::size_t first = b * kBlockRows, last = std::min<std::size_t>(starts[i + 1], b + kScaleBlocks) * kBlockRows;
        float scale = 0;
        for (std::size_t row = first; row < last; ++row)
          if (const float* x = vector_of(row)) scale = std::max(scale, code_scale(simd, x, dim));
        std::fill(scales.data() + first, scales.data() + last, scale);
      }
  });
  parallel_for(rows / kBlockRows, 64, threads, [&](std::size_t begin, std::size_t end, int) {
    std::vector<std::int8_t> row_codes(static_cast<std::size_t>(code_dim));
    for (std::size_t row = begin * kBlockRows; row < end * kBlockRows; ++row) {
      std::uint8_t* block = codes.data() + row / kBlockRows * kBlockRows * static_cast<std::size_t>(code_dim);
      std::fill(row_codes.begin(), row_codes.end(), std::int8_t{0});
      if (const float* x = vector_of(row)) {
        simd.quantize(x, dim, 1 / scales[row], row_codes.data());
        if (with_bias) biases[row] = -half_norm(x, dim);
      }
      for (int d = 0; d < code_dim; ++d)
        block[d / 4 * 64 + static_cast<int>(row % kBlockRows) * 4 + d % 4] = static_cast<std::uint8_t>(row_codes[static_cast<std::size_t>(d)] + 128);
    }
  });
  return {Column<std::uint8_t>(std::move(codes)), Column<float>(std::move(scales)), Column<float>(std::move(biases))};
}

Postings post(const AttributeColumn& attribute, const std::vector<std::uint32_t>& row_item) {
  std::vector<std::uint64_t> starts(attribute.num_values + 1);
  for (std::uint32_t value : attribute.values) ++starts[value + 1];
  std::partial_sum(starts.begin(), starts.end(), starts.begin());
  std::vector<std::uint32_t> rows(attribute.values.size());
  std::vector<std::uint64_t> next(starts.begin(), starts.end() - 1);
  for (std::size_t row = 0; row < row_item.size(); ++row)
    if (row_item[row] != kNone)
      for (std::uint64_t i = attribute.starts[row_item[row]]; i < attribute.starts[row_item[row] + 1]; ++i)
        rows[next[attribute.values[i]]++] = static_cast<std::uint32_t>(row);
  return {column_of(starts), column_of(rows)};
}

}  // namespace

float code_scale(const AnnKernels& simd, const float* x, int dim) {
  const float most = simd.largest(x, dim);
  return most < 1e-30f ? 1 : most / 127.f;
}

std::uint16_t to_half(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const std::uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal: adding .5 leaves mantissa * 2^-24 in the low bits, rounded to nearest even
    float shifted;
    std::memcpy(&shifted, &magnitude, sizeof(shifted));
    shifted += .5f;
    std::uint32_t rounded;
    std::memcpy(&rounded, &shifted, sizeof(rounded));
    return static_cast<std::uint16_t>(sign | (rounded - 0x3f000000u));
  }
  return static_cast<std::uint16_t>(sign | ((magnitude + 0xc8000fffu + (magnitude >> 13 & 1u)) >> 13));
}

float from_half(std::uint16_t half) {
  const int exponent = half >> 10 & 31;
  const float mantissa = static_cast<float>(half & 0x3ff);
  float value = exponent == 0    ? std::ldexp(mantissa, -24)
                : exponent == 31 ? (mantissa == 0 ? INFINITY : NAN)
                                 : std::ldexp(mantissa + 1024, exponent - 25);
  return half & 0x8000 ? -value : value;
}

std::int64_t Segment::row_of(std::int64_t id) const {
  const std::uint32_t* begin = by_id.data();
  const std::uint32_t* end = begin + by_id.size();
  const std::uint32_t* at = std::lower_bound(begin, end, id, [&](std::uint32_t row, std::int64_t wanted) { return ids[row] < wanted; });
  return at != end && ids[*at] == id ? static_cast<std::int64_t>(*at) : -1;
}

void Segment::widen(std::size_t row, float* out) const {
  const std::size_t width = static_cast<std::size_t>(stride());
  if (format == VectorFormat::kFloat) {
    std::memcpy(out, vectors.data() + row * width, width * sizeof(float));
  } else {
    for (std::size_t d = 0; d < width; ++d) out[d] = from_half(halves[row * width + d]);
  }
}

std::size_t Segment::bytes() const {
  std::size_t total = graph.bytes() + signs.bytes() + vectors.bytes() + halves.bytes() + ids.bytes() + by_id.bytes() + present.bytes() + list_blocks.bytes() +
                      block_norms.bytes();
  for (const CodeTable* table : {&codes, &centroids}) total += table->codes.bytes() + table->scales.bytes() + table->biases.bytes();
  for (const Postings& postings : attributes) total += postings.starts.bytes() + postings.rows.bytes();
  return total;
}

std::shared_ptr<const Segment> build_segment(const float* vectors, std::size_t count, int dim, const std::int64_t* ids,
                                             const std::vector<AttributeColumn>& attributes, const BuildOptions& options) {
  if (count > kRowsMax / 2) throw Error(ErrorKind::kInvalidInput, "an index holds at most 2^30 vectors, got " + std::to_string(count));
  auto segment = std::make_shared<Segment>();
  segment->metric = options.metric;
  segment->format = options.format;
  segment->dim = dim;
  segment->items = count;
  segment->lists = count == 0 ? 0 : static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(options.lists), count));
  const int stride = segment->stride();
  const std::size_t width = static_cast<std::size_t>(stride);

  Layout layout;
  std::vector<float> half_norms;
  if (segment->lists == 0) {
    layout = one_run(ids, count);
  } else {
    std::vector<float> padded;  // k-means wants whole vectors of 16 lanes
    const float* rows = vectors;
    if (stride != dim) {
      padded.resize(count * width);
      for (std::size_t i = 0; i < count; ++i) std::copy_n(vectors + i * static_cast<std::size_t>(dim), dim, &padded[i * width]);
      rows = padded.data();
    }
    const auto centroids =
        train_centroids(rows, count, stride, segment->lists, options.iterations, options.seed, options.threads);
    const auto nearest = nearest_centroids(rows, count, stride, centroids.data(), segment->lists, options.threads);
    const bool inner_product = options.metric == Metric::kInnerProduct;
    if (inner_product) {
      half_norms.resize(count);
      for (std::size_t i = 0; i < count; ++i) half_norms[i] = half_norm(vectors + i * static_cast<std::size_t>(dim), dim);
    }
    std::vector<float> own_scales(count);
    for (std::size_t i = 0; i < count; ++i) own_scales[i] = code_scale(*kernels(active_isa()).ann, vectors + i * static_cast<std::size_t>(dim), dim);
    layout = in_lists(nearest, segment->lists, half_norms, own_scales, ids, inner_product);
    const std::size_t lists = static_cast<std::size_t>(segment->lists);
    const std::uint32_t blocks = static_cast<std::uint32_t>((lists + kBlockRows - 1) / kBlockRows);
    segment->centroids = pack(blocks * kBlockRows, dim, options.metric == Metric::kL2, {0, blocks}, options.threads,
                              [&](std::size_t row) { return row < lists ? &centroids[row * width] : nullptr; });
    segment->list_blocks = column_of(layout.list_blocks);
  }

  segment->rows = layout.row_item.size();
  const auto vector_of = [&](std::size_t row) {
    const std::uint32_t item = layout.row_item[row];
    return item == kNone ? nullptr : vectors + item * static_cast<std::size_t>(dim);
  };
  if (segment->lists > 0) segment->codes = pack(segment->rows, dim, options.metric == Metric::kL2, layout.list_blocks, options.threads, vector_of);

  AlignedBuffer<std::int64_t> row_ids(segment->rows);
  AlignedBuffer<std::uint16_t> present(segment->blocks());
  AlignedBuffer<float> floats(options.format == VectorFormat::kFloat ? segment->rows * width : 0);
  AlignedBuffer<std::uint16_t> halves(options.format == VectorFormat::kHalf ? segment->rows * width : 0);
  std::vector<float> norms(half_norms.empty() ? 0 : segment->blocks());
  std::vector<std::uint32_t> by_id;
  by_id.reserve(count);
  for (std::size_t row = 0; row < segment->rows; ++row) {
    const std::uint32_t item = layout.row_item[row];
    row_ids[row] = item == kNone ? -1 : ids[item];
    if (item == kNone) continue;
    present[row / kBlockRows] = static_cast<std::uint16_t>(present[row / kBlockRows] | 1u << row % kBlockRows);
    by_id.push_back(static_cast<std::uint32_t>(row));
    const float* x = vector_of(row);
    if (options.format == VectorFormat::kFloat) {
      std::copy_n(x, dim, floats.data() + row * width);
    } else {
      check_half(x, static_cast<std::size_t>(dim));
      for (int d = 0; d < dim; ++d) halves[row * width + static_cast<std::size_t>(d)] = to_half(x[d]);
    }
    if (!norms.empty()) norms[row / kBlockRows] = std::max(norms[row / kBlockRows], std::sqrt(2 * half_norms[item]));
  }
  if (!norms.empty())  // falling within a list: each block's bound holds for those after it, too
    for (int l = 0; l < segment->lists; ++l)
      for (std::uint32_t b = layout.list_blocks[static_cast<std::size_t>(l) + 1]; b-- > layout.list_blocks[static_cast<std::size_t>(l)] + 1;)
        norms[b - 1] = std::max(norms[b - 1], norms[b]);
  std::sort(by_id.begin(), by_id.end(), [&](std::uint32_t a, std::uint32_t b) { return row_ids[a] < row_ids[b]; });
  segment->by_id = column_of(by_id);
  segment->block_norms = column_of(norms);
  segment->ids = Column<std::int64_t>(std::move(row_ids));
  segment->present = Column<std::uint16_t>(std::move(present));
  segment->vectors = Column<float>(std::move(floats));
  segment->halves = Column<std::uint16_t>(std::move(halves));
  for (const AttributeColumn& attribute : attributes) segment->attributes.push_back(post(attribute, layout.row_item));
  if (options.signs && segment->lists > 0 && dim <= kSignDimMax) segment->signs = build_signs(*segment, options.threads);
  if (options.degree > 0 && segment->lists > 0) segment->graph = build_graph(*segment, options.degree, options.threads);
  return segment;
}

}  // namespace aitems::ann
