// A proximity graph over the rows of a segment, for single queries on large sets: a walk scores a thousand rows where a scan of
// lists reads tens of thousands. It lies beside the lists, which go on to serve batches and filters, and adds to each row a
// row-major copy of its codes (one cache line per 64 dimensions; a packed row lies across sixteen) and its out-neighbours.
//
// Built as NSG and Vamana are (Fu et al. 2019, Subramanya et al. 2019): nearest rows, pruned so that no neighbour is nearer to a
// kept one than to the row, edges in both directions; but from a batched k-NN over the lists, not by inserting row after row. Walks
// start from the first rows of the lists nearest to the query, which for inner product are the longest ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "base/column.hpp"
#include "simd/ann_graph_kernels.hpp"

namespace aitems::ann {

struct Segment;

constexpr int kGraphDegreeMax = 256;
constexpr int kWalkLists = 16;  // a walk starts from the first rows of so many lists
constexpr int kWalkTogether = 4;  // rows whose neighbours a walk meets at a time
constexpr std::uint32_t kNoRow = 0xffffffffu;

constexpr std::size_t kNarrowRows = std::size_t{1} << 24;  // up to so many rows a neighbour is held in three bytes
constexpr std::size_t kEdgeBytes = 4;  // read at a time, so that as many lie from the start of the last neighbour on

constexpr int graph_code_stride(int dim) { return (dim + 63) / 64 * 64; }

struct Graph {
  int degree = 0;                     // most neighbours of a row; 0: no graph
  int width = 0;                      // bytes of a neighbour: 3 or 4
  Column<std::uint32_t> starts;       // rows + 1: the first edge of each row; empty (files of version 2): `degree` a row, ended by kNoRow
  Column<std::uint8_t> neighbours;    // edges x width
  Column<std::uint8_t> codes;         // rows x stride, row-major
  Column<std::uint8_t> levels;        // rows: which of `scales`
  Column<float> scales;               // 256, falling
  Column<float> biases;               // rows, for l2: -|x|^2 / 2
  std::size_t linked = 0;             // rows that no walk could reach until they were given an in-link
  std::size_t reached = 0;            // rows that can be reached now: all

  bool empty() const { return degree == 0; }
  std::size_t bytes() const { return starts.bytes() + neighbours.bytes() + codes.bytes() + levels.bytes() + scales.bytes() + biases.bytes(); }
  // The edges of a row: [first, second). A row that they lead to is none if it is beyond the rows there are: then there are no more.
  std::pair<std::size_t, std::size_t> edges(std::size_t row) const {
    const std::size_t most = static_cast<std::size_t>(degree);
    return starts.empty() ? std::pair{row * most, (row + 1) * most} : std::pair<std::size_t, std::size_t>{starts[row], starts[row + 1]};
  }
  const std::uint8_t* place(std::size_t edge) const { return neighbours.data() + edge * static_cast<std::size_t>(width); }
  std::uint32_t neighbour(std::size_t edge) const {
    std::uint32_t row;
    std::memcpy(&row, place(edge), sizeof(row));
    return width == 3 ? row & 0xffffffu : row;
  }
  AnnRowCodes table(int dim) const {
    return {codes.data(), levels.data(), scales.data(), biases.empty() ? nullptr : biases.data(), graph_code_stride(dim)};
  }
};

// The graph of a segment with lists; every row can be reached from the rows that walks start from. The same for any `threads`.
Graph build_graph(const Segment& segment, int degree, int threads);

// A beam search: the best rows it met, by falling score, the lower row first. One thread's scratch memory.
class Walk {
 public:
  // From the first rows of `lists`. `query` has graph_code_stride codes. Rows are met and held whether live or not.
  void run(const Segment& segment, const AnnGraphKernels& simd, const AnnQuery& query, const std::vector<std::uint32_t>& lists, int beam);
  std::size_t size() const { return pool_.size(); }
  std::uint32_t row(std::size_t place) const { return ~static_cast<std::uint32_t>(pool_[place] >> 1) & 0x7fffffffu; }

 private:
  void offer(float score, std::uint32_t row);
  void score_fresh(const AnnGraphKernels& simd, const AnnRowCodes& table, const AnnQuery& query);

  std::vector<std::uint64_t> pool_;  // best first: score as ascending bits, complement of the row, whether its neighbours are still to be met
  std::size_t capacity_ = 0, next_ = 0;
  std::vector<std::uint64_t> seen_;
  std::vector<std::uint32_t> touched_, fresh_;
  std::vector<float> scores_;
};

}  // namespace aitems::ann
