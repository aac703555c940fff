#include "ann/merge.hpp"

#include <algorithm>
#include <utility>

#include "base/thread_pool.hpp"

namespace aitems::ann {
namespace {

constexpr std::uint32_t kNone = 0xffffffffu;

struct Items {
  std::vector<float> vectors;
  std::vector<std::int64_t> ids;
  std::vector<AttributeColumn> attributes;
};

Items live_items(const Snapshot& from) {
  const Segment& old = *from.segment;
  const std::size_t dim = static_cast<std::size_t>(old.dim), count = from.size();
  Items items;
  items.vectors.resize(count * dim);
  items.ids.resize(count);
  std::size_t num_attributes = old.attributes.size();
  for (std::size_t row = 0; row < from.delta_rows; ++row)
    num_attributes = std::max(num_attributes, from.chunks[row / kDeltaChunkRows]->values[row % kDeltaChunkRows].size());
  std::vector<std::vector<std::pair<std::uint32_t, std::uint32_t>>> pairs(num_attributes);  // (item, value)
  std::vector<std::uint32_t> item_of(old.rows, kNone);
  std::vector<float> wide(static_cast<std::size_t>(old.stride()));

  std::size_t item = 0;
  for (std::size_t row = 0; row < old.rows; ++row) {
    if (!live_at(*from.live, row)) continue;
    old.widen(row, wide.data());
    std::copy_n(wide.data(), dim, &items.vectors[item * dim]);
    item_of[row] = static_cast<std::uint32_t>(item);
    items.ids[item++] = old.ids[row];
  }
  for (std::size_t a = 0; a < old.attributes.size(); ++a)
    for (std::uint32_t v = 0; v + 1 < old.attributes[a].starts.size(); ++v)
      for (std::uint64_t i = old.attributes[a].starts[v]; i < old.attributes[a].starts[v + 1]; ++i)
        if (const std::uint32_t held = item_of[old.attributes[a].rows[i]]; held != kNone) pairs[a].emplace_back(held, v);
  for (std::size_t row = 0; row < from.delta_rows; ++row) {
    if (!live_at(*from.delta_live, row)) continue;
    std::copy_n(from.delta_vector(row), dim, &items.vectors[item * dim]);
    const auto& held = from.chunks[row / kDeltaChunkRows]->values[row % kDeltaChunkRows];
    for (std::size_t a = 0; a < held.size(); ++a)
      for (std::uint32_t v : held[a]) pairs[a].emplace_back(static_cast<std::uint32_t>(item), v);
    items.ids[item++] = from.delta_id(row);
  }

  items.attributes.resize(num_attributes);
  for (std::size_t a = 0; a < num_attributes; ++a) {
    std::sort(pairs[a].begin(), pairs[a].end());
    AttributeColumn& column = items.attributes[a];
    column.starts.assign(count + 1, 0);
    if (a < old.attributes.size()) column.num_values = static_cast<std::uint32_t>(old.attributes[a].starts.size() - 1);
    for (const auto& [held, value] : pairs[a]) {
      ++column.starts[held + 1];
      column.values.push_back(value);
      column.num_values = std::max(column.num_values, value + 1);
    }
    for (std::size_t i = 0; i < count; ++i) column.starts[i + 1] += column.starts[i];
  }
  return items;
}

}  // namespace

void Merge::build(int lists, int degree, bool signs, int threads) {
  std::shared_ptr<const Segment> segment = from_->segment;
  if (!from_->packed() || lists != options_.lists || degree != options_.degree || signs != options_.signs) {
    options_.lists = lists;
    options_.degree = degree;
    options_.signs = signs;
    options_.threads = threads;
    const CancelScope scope(cancelled_);
    const Items items = live_items(*from_);
    segment = build_segment(items.vectors.data(), items.ids.size(), from_->segment->dim, items.ids.data(), items.attributes, options_);
  }
  built_ = std::make_shared<Index>(std::move(segment), options_, plan_);
}

std::shared_ptr<const Snapshot> carried_over(const Snapshot& from, const Snapshot& now, std::shared_ptr<const Segment> packed) {
  std::shared_ptr<Snapshot> next = snapshot_of(std::move(packed));
  if (next->segment == from.segment) return std::make_shared<Snapshot>(now);  // nothing was merged
  LiveMask live(*next->live);
  const auto remove = [&](std::int64_t id) {
    clear_at(live, static_cast<std::size_t>(next->segment->row_of(id)));
    --next->live_items;
  };
  for (std::size_t b = 0; b < from.live->size(); ++b)
    if ((*from.live)[b] != (*now.live)[b])
      for (std::size_t row = b * kBlockRows; row < (b + 1) * kBlockRows; ++row)
        if (live_at(*from.live, row) && !live_at(*now.live, row)) remove(from.segment->ids[row]);
  for (std::size_t row = 0; row < from.delta_rows; ++row)
    if (live_at(*from.delta_live, row) && !live_at(*now.delta_live, row)) remove(from.delta_id(row));
  if (next->live_items != next->segment->items) {
    next->opening = std::make_shared<const Opening>(opening_of(*next->segment, live));
    next->live = std::make_shared<const LiveMask>(std::move(live));
  }
  if (now.delta_rows > from.delta_rows) {  // the chunks are shared; merged rows at the front of the first are dead
    const std::size_t first = from.delta_rows / kDeltaChunkRows;
    next->chunks.assign(now.chunks.begin() + static_cast<std::ptrdiff_t>(first), now.chunks.end());
    next->delta_rows = now.delta_rows - first * kDeltaChunkRows;
    LiveMask delta_live(now.delta_live->begin() + static_cast<std::ptrdiff_t>(first * (kDeltaChunkRows / kBlockRows)), now.delta_live->end());
    for (std::size_t row = 0; row < from.delta_rows % kDeltaChunkRows; ++row) clear_at(delta_live, row);
    for (std::size_t row = 0; row < next->delta_rows; ++row) next->delta_live_items += live_at(delta_live, row);
    next->delta_live = std::make_shared<const LiveMask>(std::move(delta_live));
  }
  return next;
}

}  // namespace aitems::ann
