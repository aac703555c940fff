#include "ann/graph.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "ann/segment.hpp"

namespace aitems::ann {
namespace {

constexpr std::uint64_t kOpen = 1;

// Bits that ascend with the score.
std::uint32_t ascending(float score) {
  std::uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

}  // namespace

void Walk::offer(float score, std::uint32_t row) {
  const std::uint64_t key = static_cast<std::uint64_t>(ascending(score)) << 32 | static_cast<std::uint64_t>(~row & 0x7fffffffu) << 1 | kOpen;
  if (pool_.size() == capacity_) {
    if (key < pool_.back()) return;
    pool_.pop_back();
  }
  const auto at = std::lower_bound(pool_.begin(), pool_.end(), key, [](std::uint64_t held, std::uint64_t offered) { return held > offered; });
  next_ = std::min(next_, static_cast<std::size_t>(at - pool_.begin()));
  pool_.insert(at, key);
}

void Walk::score_fresh(const AnnGraphKernels& simd, const AnnRowCodes& table, const AnnQuery& query) {
  scores_.resize(std::max(scores_.size(), fresh_.size()));
  simd.score(&table, &query, fresh_.data(), static_cast<std::int32_t>(fresh_.size()), scores_.data());
  for (std::size_t i = 0; i < fresh_.size(); ++i) offer(scores_[i], fresh_[i]);
}

void Walk::run(const Segment& segment, const AnnGraphKernels& simd, const AnnQuery& query, const std::vector<std::uint32_t>& lists, int beam) {
  const Graph& graph = segment.graph;
  const AnnRowCodes table = graph.table(segment.dim);
  const std::size_t stride = static_cast<std::size_t>(table.stride);
  capacity_ = static_cast<std::size_t>(beam);
  pool_.clear();
  pool_.reserve(capacity_ + 1);
  next_ = 0;
  if (seen_.size() < segment.rows / 64 + 1) seen_.resize(segment.rows / 64 + 1);
  fresh_.clear();
  const auto meet = [&](std::uint32_t row) {
    std::uint64_t& word = seen_[row / 64];
    const std::uint64_t bit = std::uint64_t{1} << row % 64;
    if (word & bit) return;
    if (!word) touched_.push_back(row / 64);
    word |= bit;
    fresh_.push_back(row);
    for (std::size_t at = 0; at < stride; at += 64) __builtin_prefetch(table.codes + row * stride + at);
  };
  for (std::uint32_t list : lists) {
    const std::uint32_t block = segment.list_blocks[list];
    if (block == segment.list_blocks[list + 1]) continue;
    for (unsigned bits = segment.present[block]; bits; bits &= bits - 1) meet(block * kBlockRows + static_cast<std::uint32_t>(std::countr_zero(bits)));
  }
  score_fresh(simd, table, query);
  // The best few together: what they need comes from far, and so it comes at once.
  std::uint32_t here[kWalkTogether];
  std::pair<std::size_t, std::size_t> edges[kWalkTogether];
  while (true) {
    std::size_t taken = 0;
    for (std::size_t at = next_; at < pool_.size() && taken < kWalkTogether; ++at) {
      if (!(pool_[at] & kOpen)) continue;
      pool_[at] &= ~kOpen;
      here[taken++] = row(at);
      next_ = at + 1;
    }
    if (taken == 0) break;
    if (!graph.starts.empty())
      for (std::size_t i = 0; i < taken; ++i) __builtin_prefetch(&graph.starts[here[i]]);
    for (std::size_t i = 0; i < taken; ++i) {
      edges[i] = graph.edges(here[i]);
      for (const std::uint8_t* at = graph.place(edges[i].first); at < graph.place(edges[i].second); at += 64) __builtin_prefetch(at);
    }
    fresh_.clear();
    for (std::size_t i = 0; i < taken; ++i)
      for (std::size_t edge = edges[i].first; edge < edges[i].second; ++edge) {
        const std::uint32_t to = graph.neighbour(edge);
        if (to >= segment.rows) break;  // also a row that a damaged file made up
        meet(to);
      }
    score_fresh(simd, table, query);
  }
  for (std::uint32_t word : touched_) seen_[word] = 0;
  touched_.clear();
}

}  // namespace aitems::ann
