#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>

#include "ann/candidates.hpp"
#include "ann/graph.hpp"
#include "ann/segment.hpp"
#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "simd/kernels.hpp"

namespace aitems::ann {
namespace {

constexpr std::size_t kBatchBlocks = 32;   // of rows that look for their nearest together
constexpr std::size_t kStepBlocks = 16;    // scanned between two cuts of the candidates
constexpr std::size_t kCoarseQueries = 32;
constexpr std::size_t kGrainRows = 256;
constexpr int kProbes = 16;                // lists that a row looks into
constexpr int kNearest = 64;               // rows of them that pruning chooses from
constexpr std::size_t kConsidered = 128;   // the same with the edges that point back
constexpr std::size_t kForward = 24;       // out-neighbours before edges point back
// A row is pruned when a kept one is nearer to it than the row that chooses, by a factor: squared distances to the kept one grow
// by theirs, similarities (inner product) shrink, and the more the more norms differ, because long vectors are near to all others
// and would prune nearly everything. Measured: .97 is best for equal norms, .8 for norms that deviate by a fifth.
constexpr float kDistanceSlack = 1.2f, kSimilaritySlack = .97f, kSimilaritySlackLeast = .75f, kSlackByDeviation = .8f;
constexpr std::size_t kLeast = 6;          // out-neighbours to have even so
constexpr std::uint8_t kAdopted = 2;       // edges to unreachable rows that a near row takes on: walks pay for each
constexpr float kScaleLeast = 1e-30f;      // a vector with less is zero

struct Near {
  float distance;  // minus the inner product; for l2 half the squared distance
  std::uint32_t row;
  bool operator<(const Near& other) const { return distance != other.distance ? distance < other.distance : row < other.row; }
};

class Builder {
 public:
  Builder(const Segment& segment, int degree, int threads)
      : s_(segment),
        simd_(*kernels(active_isa()).ann),
        rows_simd_(*kernels(active_isa()).ann_graph),
        l2_(segment.metric == Metric::kL2),
        degree_(static_cast<std::size_t>(degree)),
        stride_(static_cast<std::size_t>(graph_code_stride(segment.dim))),
        threads_(threads),
        codes_(segment.rows * stride_),
        levels_(segment.rows),
        scales_(256),
        biases_(l2_ ? segment.rows : 0),
        edges_(segment.rows * degree_) {
    std::fill_n(edges_.data(), edges_.size(), kNoRow);
  }

  Graph build() {
    encode();
    link_nearest();
    link_back();
    Graph graph;
    link_unreachable(graph);
    graph.degree = static_cast<int>(degree_);
    pack_edges(graph);
    graph.codes = Column<std::uint8_t>(std::move(codes_));
    graph.levels = Column<std::uint8_t>(std::move(levels_));
    graph.scales = Column<float>(std::move(scales_));
    graph.biases = Column<float>(std::move(biases_));
    return graph;
  }

 private:
  struct Scratch {
    std::vector<std::int8_t> codes, group_codes, one;
    std::vector<AnnQuery> group;
    std::vector<std::uint32_t> batch, rows;
    std::vector<std::pair<std::uint32_t, std::uint32_t>> visits;  // list, query
    Candidates coarse, nearest;
    std::vector<Near> near, pruned;
    std::vector<float> scores;
  };

  bool present(std::size_t row) const { return s_.present[row / kBlockRows] >> row % kBlockRows & 1; }
  float scale_of(std::size_t row) const { return scales_[levels_[row]]; }
  std::uint32_t* edges_of(std::size_t row) { return edges_.data() + row * degree_; }
  std::uint32_t* end_of_edges(std::size_t row) { return std::find(edges_of(row), edges_of(row) + degree_, kNoRow); }
  AnnRowCodes table() const {
    return {codes_.data(), levels_.data(), scales_.data(), l2_ ? biases_.data() : nullptr, static_cast<std::int32_t>(stride_)};
  }

  template <class Body>
  void each_row(const Body& body) {
    parallel_for(s_.rows, kGrainRows, threads_, [&](std::size_t begin, std::size_t end, int) {
      for (std::size_t row = begin; row < end; ++row)
        if (present(row)) body(row);
    });
  }

  static Scratch& own_scratch() {
    static thread_local Scratch scratch;
    return scratch;
  }

  // Codes row by row. Scales come from a table of 256 whose steps are so small that rounding up to one costs nothing.
  void encode() {
    std::vector<float> wanted(s_.rows), norms(s_.rows);
    each_row([&](std::size_t row) {
      std::vector<float> x(static_cast<std::size_t>(s_.stride()));
      s_.widen(row, x.data());
      double squared = 0;
      for (float value : x) {
        wanted[row] = std::max(wanted[row], std::fabs(value) / 127.f);
        squared += static_cast<double>(value) * value;
      }
      norms[row] = static_cast<float>(std::sqrt(squared));
      if (l2_) biases_[row] = static_cast<float>(-squared / 2);
    });
    slack_ = slack_for(norms);
    float most = kScaleLeast, least = 1e30f;
    for (float scale : wanted) {
      most = std::max(most, scale);
      if (scale > kScaleLeast) least = std::min(least, scale);
    }
    double ratio = static_cast<double>(most) / std::min(least, most), scale = most;
    for (int i = 0; i < 8; ++i) ratio = std::sqrt(ratio);  // the 256th root, with the same bits everywhere
    for (std::size_t i = 0; i < scales_.size(); ++i, scale /= ratio) scales_[i] = static_cast<float>(scale);
    each_row([&](std::size_t row) {
      std::uint8_t* codes = &codes_[row * stride_];
      std::fill_n(codes, stride_, std::uint8_t{128});
      const float* above = std::partition_point(scales_.data(), scales_.data() + scales_.size(), [&](float s) { return s >= wanted[row]; });
      levels_[row] = static_cast<std::uint8_t>(std::max<std::ptrdiff_t>(above - scales_.data() - 1, 0));
      if (wanted[row] <= kScaleLeast) return;
      std::vector<float> x(static_cast<std::size_t>(s_.stride()));
      s_.widen(row, x.data());
      const float inverse = 1 / scale_of(row);
      for (std::size_t d = 0; d < static_cast<std::size_t>(s_.dim); ++d) {
        const float value = x[d] * inverse;
        codes[d] = static_cast<std::uint8_t>(static_cast<std::int32_t>(value + (value < 0 ? -.5f : .5f)) + 128);
      }
    });
  }

  float slack_for(const std::vector<float>& norms) const {
    if (l2_) return kDistanceSlack;
    double sum = 0, squares = 0;
    for (float norm : norms) {  // padding adds nothing
      sum += norm;
      squares += static_cast<double>(norm) * norm;
    }
    if (sum == 0) return kSimilaritySlack;
    const double deviation = std::sqrt(std::max(0.0, squares * static_cast<double>(s_.items) / (sum * sum) - 1));  // over the mean
    return std::max(kSimilaritySlackLeast, kSimilaritySlack - kSlackByDeviation * static_cast<float>(deviation));
  }

  // A row as a query; `codes` holds what it points to.
  AnnQuery as_query(std::size_t row, std::int8_t* codes) const {
    AnnQuery query{};
    query.codes = codes;
    for (std::size_t d = 0; d < stride_; ++d) {
      codes[d] = static_cast<std::int8_t>(codes_[row * stride_ + d] - 128);
      query.correction += 128 * codes[d];
    }
    query.bias_factor = 1 / scale_of(row);
    return query;
  }

  // Each row's nearest among the lists nearest to it, pruned.
  void link_nearest() {
    parallel_for(static_cast<std::size_t>(s_.lists), 1, threads_, [&](std::size_t begin, std::size_t end, int) {
      for (std::size_t list = begin; list < end; ++list)
        for (std::size_t b = s_.list_blocks[list]; b < s_.list_blocks[list + 1]; b += kBatchBlocks)
          link_batch(list, b, std::min<std::size_t>(b + kBatchBlocks, s_.list_blocks[list + 1]));
    });
  }

  // Rows of one list look together: they probe nearly the same lists, so that a scan serves hundreds of them.
  void link_batch(std::size_t own, std::size_t begin, std::size_t end) {
    Scratch& scratch = own_scratch();
    scratch.batch.clear();
    for (std::size_t row = begin * kBlockRows; row < end * kBlockRows; ++row)
      if (present(row)) scratch.batch.push_back(static_cast<std::uint32_t>(row));
    const std::size_t count = scratch.batch.size();
    const auto itself = [](std::uint32_t row) { return static_cast<std::int64_t>(row); };
    const std::size_t code_dim = static_cast<std::size_t>(s_.code_dim());
    scratch.codes.assign((count + kAnnQueriesRead) * code_dim, 0);
    scratch.group_codes.resize(scratch.codes.size());
    scratch.one.resize(stride_);
    const Entered entered(simd_);
    scratch.nearest.start(simd_, count, kNearest + 1, kStepBlocks * kBlockRows);  // a row finds itself
    for (std::size_t q = 0; q < count; ++q) {
      const AnnQuery query = as_query(scratch.batch[q], scratch.one.data());
      std::copy_n(query.codes, code_dim, &scratch.codes[q * code_dim]);
      scratch.nearest[q].codes = &scratch.codes[q * code_dim];
      scratch.nearest[q].correction = query.correction;
      scratch.nearest[q].bias_factor = query.bias_factor;
    }

    const std::size_t coarse_blocks = s_.centroids.scales.size() / kBlockRows;
    const int probes = std::min(kProbes, s_.lists);
    std::vector<std::uint16_t> lists(coarse_blocks, 0xffff);
    if (s_.lists % kBlockRows != 0) lists.back() = static_cast<std::uint16_t>((1u << s_.lists % kBlockRows) - 1);
    const AnnBlocks coarse = blocks_of(s_.centroids, lists.data());
    scratch.visits.clear();
    for (std::size_t q0 = 0; q0 < count; q0 += kCoarseQueries) {
      const std::size_t queries = std::min(kCoarseQueries, count - q0);
      scratch.coarse.start(simd_, queries, probes, static_cast<int>(coarse_blocks * kBlockRows));
      for (std::size_t q = 0; q < queries; ++q) {
        scratch.coarse[q].codes = scratch.nearest[q0 + q].codes;
        scratch.coarse[q].correction = scratch.nearest[q0 + q].correction;
        scratch.coarse[q].bias_factor = scratch.nearest[q0 + q].bias_factor;
      }
      simd_.scan(&coarse, 0, coarse_blocks, scratch.coarse.data(), static_cast<std::int32_t>(queries));
      for (std::size_t q = 0; q < queries; ++q) {
        scratch.coarse.finish(scratch.coarse[q], itself);
        for (std::int32_t i = 0; i < scratch.coarse[q].count; ++i)
          if (scratch.coarse[q].rows[i] != own) scratch.visits.emplace_back(scratch.coarse[q].rows[i], static_cast<std::uint32_t>(q0 + q));
      }
    }
    std::sort(scratch.visits.begin(), scratch.visits.end());

    const AnnBlocks blocks = blocks_of(s_.codes, s_.present.data());
    const auto scan = [&](std::size_t list, AnnQuery* queries, std::size_t num) {
      for (std::size_t b = s_.list_blocks[list]; b < s_.list_blocks[list + 1]; b += kStepBlocks) {
        simd_.scan(&blocks, b, std::min<std::size_t>(b + kStepBlocks, s_.list_blocks[list + 1]), queries, static_cast<std::int32_t>(num));
        for (std::size_t q = 0; q < num; ++q) scratch.nearest.make_room(queries[q], itself);
      }
    };
    scan(own, scratch.nearest.data(), count);
    for (std::size_t first = 0, last; first < scratch.visits.size(); first = last) {
      const std::uint32_t list = scratch.visits[first].first;
      scratch.group.clear();
      for (last = first; last < scratch.visits.size() && scratch.visits[last].first == list; ++last)
        scratch.group.push_back(scratch.nearest[scratch.visits[last].second]);
      for (std::size_t g = 0; g < scratch.group.size(); ++g) {
        std::copy_n(scratch.group[g].codes, code_dim, &scratch.group_codes[g * code_dim]);
        scratch.group[g].codes = &scratch.group_codes[g * code_dim];
      }
      scan(list, scratch.group.data(), scratch.group.size());
      for (std::size_t i = first; i < last; ++i) {
        const std::size_t q = scratch.visits[i].second;
        scratch.nearest[q] = scratch.group[i - first];
        scratch.nearest[q].codes = &scratch.codes[q * code_dim];
      }
    }
    for (std::size_t q = 0; q < count; ++q) {
      AnnQuery& found = scratch.nearest[q];
      scratch.nearest.finish(found, itself);
      scratch.rows.assign(found.rows, found.rows + found.count);
      choose(scratch.batch[q], std::min(kForward, degree_), edges_of(scratch.batch[q]), scratch);
    }
  }

  AnnBlocks blocks_of(const CodeTable& of, const std::uint16_t* live) const {
    return {of.codes.data(), of.scales.data(), of.biases.empty() ? nullptr : of.biases.data(), live, s_.code_dim()};
  }

  // Distances of scratch.rows to a row, into scratch.scores.
  void measure(std::uint32_t from, Scratch& scratch) const {
    scratch.one.resize(stride_);
    scratch.scores.resize(scratch.rows.size());
    const AnnQuery query = as_query(from, scratch.one.data());
    const AnnRowCodes codes = table();
    rows_simd_.score(&codes, &query, scratch.rows.data(), static_cast<std::int32_t>(scratch.rows.size()), scratch.scores.data());
    for (float& score : scratch.scores) score = -score * scale_of(from) - (l2_ ? biases_[from] : 0);
  }

  // Chooses out-neighbours of a row among scratch.rows (any order, repetitions, the row itself): at most `most`.
  void choose(std::uint32_t row, std::size_t most, std::uint32_t* out, Scratch& scratch) const {
    std::vector<std::uint32_t>& rows = scratch.rows;
    std::vector<Near>& near = scratch.near;
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    rows.erase(std::remove(rows.begin(), rows.end(), row), rows.end());
    measure(row, scratch);
    near.clear();
    for (std::size_t i = 0; i < rows.size(); ++i) near.push_back({scratch.scores[i], rows[i]});
    const std::size_t considered = std::min(near.size(), kConsidered);
    std::partial_sort(near.begin(), near.begin() + static_cast<std::ptrdiff_t>(considered), near.end());
    near.resize(considered);
    scratch.pruned.clear();
    std::size_t kept = 0;
    while (kept < most && !near.empty()) {
      const std::uint32_t nearest = near.front().row;
      out[kept++] = nearest;
      rows.clear();
      for (std::size_t i = 1; i < near.size(); ++i) rows.push_back(near[i].row);
      measure(nearest, scratch);
      std::size_t left = 0;
      for (std::size_t i = 1; i < near.size(); ++i) {
        if (slack_ * scratch.scores[i - 1] < near[i].distance) {
          scratch.pruned.push_back(near[i]);
        } else {
          near[left++] = near[i];
        }
      }
      near.resize(left);
    }
    std::sort(scratch.pruned.begin(), scratch.pruned.end());
    for (std::size_t i = 0; kept < std::min(kLeast, most) && i < scratch.pruned.size(); ++i) out[kept++] = scratch.pruned[i].row;
    std::fill(out + kept, out + degree_, kNoRow);
  }

  // Edges in both directions, pruned again.
  void link_back() {
    std::vector<std::uint64_t> ends(s_.rows + 1);  // of the rows that point to a row
    for (std::size_t i = 0; i < edges_.size(); ++i)
      if (edges_[i] != kNoRow) ++ends[edges_[i] + 1];
    std::partial_sum(ends.begin(), ends.end(), ends.begin());
    std::vector<std::uint32_t> from(ends.back());
    for (std::size_t i = 0; i < edges_.size(); ++i)
      if (edges_[i] != kNoRow) from[ends[edges_[i]]++] = static_cast<std::uint32_t>(i / degree_);
    AlignedBuffer<std::uint32_t> both(edges_.size());
    std::fill_n(both.data(), both.size(), kNoRow);
    each_row([&](std::size_t row) {
      Scratch& scratch = own_scratch();
      scratch.rows.assign(edges_of(row), end_of_edges(row));
      scratch.rows.insert(scratch.rows.end(), from.data() + (row ? ends[row - 1] : 0), from.data() + ends[row]);
      choose(static_cast<std::uint32_t>(row), degree_, both.data() + row * degree_, scratch);
    });
    edges_ = std::move(both);
  }

  // Gives every row that no walk could reach an in-link. Edges of the tree that the search of reachable rows
  // leaves behind are never replaced, so nothing gets lost.
  void link_unreachable(Graph& graph) {
    std::vector<std::uint32_t> parents(s_.rows, kNoRow), queue;
    std::vector<std::uint8_t> adopted(s_.rows);
    const auto reach = [&](std::uint32_t row, std::uint32_t parent) {
      if (parents[row] != kNoRow) return;
      parents[row] = parent;
      queue.push_back(row);
    };
    const auto follow = [&] {
      while (!queue.empty()) {
        const std::uint32_t row = queue.back();
        queue.pop_back();
        std::for_each(edges_of(row), end_of_edges(row), [&](std::uint32_t to) { reach(to, row); });
      }
    };
    // A place for one more edge from a reached row: an empty one, else that of the last edge outside the tree.
    const auto place_in = [&](std::uint32_t row, bool replace) -> std::uint32_t* {
      if (parents[row] == kNoRow) return nullptr;
      std::uint32_t* end = end_of_edges(row);
      if (end < edges_of(row) + degree_) return end;
      while (replace && end-- > edges_of(row))
        if (parents[*end] != row) return end;
      return nullptr;
    };
    for (std::size_t list = 0; list < static_cast<std::size_t>(s_.lists); ++list)
      if (const std::size_t first = s_.list_blocks[list]; first < s_.list_blocks[list + 1])
        for (std::uint32_t row = static_cast<std::uint32_t>(first * kBlockRows); row < (first + 1) * kBlockRows; ++row)
          if (present(row)) reach(row, row);
    follow();
    for (std::uint32_t row = 0; row < s_.rows; ++row) {
      if (!present(row) || parents[row] != kNoRow) continue;
      // From its nearest if one has room and has adopted few, else from the row before it (all earlier ones have been reached), or
      // the one before that.
      std::uint32_t from = row, *place = nullptr;
      for (const std::uint32_t* to = edges_of(row); !place && to < end_of_edges(row); ++to)
        if (adopted[*to] < kAdopted) place = place_in(from = *to, false);
      for (std::uint32_t before = row; !place && before-- > 0;) place = place_in(from = before, true);
      for (std::uint32_t after = row + 1; !place && after < s_.rows; ++after) place = place_in(from = after, true);
      if (!place) continue;  // only where the degree is 1: the tree has fewer edges than there are rows
      *place = row;
      adopted[from] = static_cast<std::uint8_t>(std::min(adopted[from] + 1, 255));
      reach(row, from);
      follow();
      ++graph.linked;
    }
    graph.reached = s_.rows - static_cast<std::size_t>(std::count(parents.begin(), parents.end(), kNoRow));
  }

  // One row's edges behind the other's, without the empty places.
  void pack_edges(Graph& graph) {
    AlignedBuffer<std::uint32_t> starts(s_.rows + 1);
    std::size_t edges = 0;
    for (std::size_t row = 0; row < s_.rows; ++row) {
      starts[row] = static_cast<std::uint32_t>(edges);
      edges += static_cast<std::size_t>(end_of_edges(row) - edges_of(row));
    }
    if (edges > kNoRow) throw Error(ErrorKind::kInvalidInput, "a graph holds at most 2^32 - 1 edges, this one has " + std::to_string(edges) + "; take a smaller degree");
    starts[s_.rows] = static_cast<std::uint32_t>(edges);
    graph.width = s_.rows <= kNarrowRows ? 3 : 4;
    const std::size_t width = static_cast<std::size_t>(graph.width);
    AlignedBuffer<std::uint8_t> packed(edges * width + kEdgeBytes - width);
    for (std::size_t row = 0; row < s_.rows; ++row) {
      std::uint8_t* at = packed.data() + starts[row] * width;
      for (const std::uint32_t* to = edges_of(row); to < end_of_edges(row); ++to, at += width) std::memcpy(at, to, width);
    }
    graph.starts = Column<std::uint32_t>(std::move(starts));
    graph.neighbours = Column<std::uint8_t>(std::move(packed));
    edges_ = {};
  }

  const Segment& s_;
  const AnnKernels& simd_;
  const AnnGraphKernels& rows_simd_;
  const bool l2_;
  float slack_ = 1;
  const std::size_t degree_, stride_;
  const int threads_;
  AlignedBuffer<std::uint8_t> codes_, levels_;
  AlignedBuffer<float> scales_, biases_;
  AlignedBuffer<std::uint32_t> edges_;
};

}  // namespace

Graph build_graph(const Segment& segment, int degree, int threads) { return Builder(segment, degree, threads).build(); }

}  // namespace aitems::ann
