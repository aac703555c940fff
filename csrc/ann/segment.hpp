// The immutable packed form of a set of vectors: rows in inverted lists (or in one run, sorted by id), 8-bit codes for the scan,
// float or half-precision vectors for the exact scores, ids, and postings of attribute values. Everything a search reads is here;
// what was deleted or added since is in the snapshot (snapshot.hpp).
//
// A row is a slot; lists are padded to whole blocks of 16 rows, and padding is marked in `present`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ann/graph.hpp"
#include "ann/signs.hpp"
#include "base/column.hpp"
#include "simd/ann_kernels.hpp"

namespace aitems::ann {

enum class Metric : std::int32_t { kInnerProduct = 0, kCosine = 1, kL2 = 2 };
enum class VectorFormat : std::int32_t { kFloat = 0, kHalf = 1 };

constexpr int kBlockRows = 16;
constexpr int kScaleBlocks = 4;  // blocks of a list, from its first on, that share one scale: a kernel may compare their sums as they are
constexpr int kDimMax = 16384;
constexpr float kNormMax = 1e18f;  // so that no score overflows
constexpr std::size_t kRowsMax = 0x7fffffff;

constexpr int padded_stride(int dim) { return (dim + 15) / 16 * 16; }
constexpr int padded_code_dim(int dim) { return (dim + 3) / 4 * 4; }

struct CodeTable {
  Column<std::uint8_t> codes;
  Column<float> scales;
  Column<float> biases;  // -|x|^2 / 2 for l2, otherwise empty
};

// Which rows hold a value of one attribute: rows[starts[v] .. starts[v + 1]), ascending.
struct Postings {
  Column<std::uint64_t> starts;
  Column<std::uint32_t> rows;
};

struct Segment {
  Metric metric = Metric::kInnerProduct;
  VectorFormat format = VectorFormat::kFloat;
  int dim = 0;
  int lists = 0;          // 0: no codes, every search is an exact scan
  std::size_t items = 0;  // real rows
  std::size_t rows = 0;   // with padding; multiple of 16

  Column<float> vectors;          // rows x stride, for kFloat
  Column<std::uint16_t> halves;   // rows x stride, for kHalf
  Column<std::int64_t> ids;       // rows; padding: -1
  Column<std::uint32_t> by_id;    // items: rows by ascending id
  Column<std::uint16_t> present;  // rows / 16
  CodeTable codes;
  Column<std::uint32_t> list_blocks;  // lists + 1: first block of each list
  Column<float> block_norms;          // rows / 16: longest vector in the block; inner product only, falling within a list
  CodeTable centroids;                // of `lists` rows, padded to whole blocks
  SignTable signs;                    // empty: none
  Graph graph;                        // empty: none
  std::vector<Postings> attributes;
  std::shared_ptr<const void> file;  // keeps a mapping alive

  int stride() const { return padded_stride(dim); }
  int code_dim() const { return padded_code_dim(dim); }
  std::size_t blocks() const { return rows / kBlockRows; }
  // The row of an id, or -1.
  std::int64_t row_of(std::int64_t id) const;
  // The vector of a row as floats; `out` holds stride() values.
  void widen(std::size_t row, float* out) const;
  std::size_t bytes() const;  // all columns
};

// Values of the attributes item by item: item i has values[starts[i] .. starts[i + 1]), codes in [0, num_values).
struct AttributeColumn {
  std::vector<std::uint64_t> starts;
  std::vector<std::uint32_t> values;
  std::uint32_t num_values = 0;
};

struct BuildOptions {
  Metric metric = Metric::kInnerProduct;
  VectorFormat format = VectorFormat::kFloat;
  int lists = 0;
  int iterations = 10;
  std::uint64_t seed = 0;
  int threads = 1;
  int degree = 0;  // out-neighbours in the graph; 0: no graph
  bool signs = false;  // whether to have them; not beyond kSignDimMax dimensions
};

// Builds a segment of `count` vectors (row-major, dim floats each; already normalised for cosine). Ids must be unique and >= 0.
std::shared_ptr<const Segment> build_segment(const float* vectors, std::size_t count, int dim, const std::int64_t* ids,
                                             const std::vector<AttributeColumn>& attributes, const BuildOptions& options);

// The scale at which the largest component of x has code 127 or -127; 1 for a zero vector.
float code_scale(const AnnKernels& simd, const float* x, int dim);
std::uint16_t to_half(float value);
float from_half(std::uint16_t half);

}  // namespace aitems::ann
