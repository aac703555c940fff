#include "ann/snapshot.hpp"

#include <bit>

namespace aitems::ann {

Opening opening_of(const Segment& segment, const LiveMask& mask) {
  Opening opening;
  const std::size_t lists = static_cast<std::size_t>(segment.lists);
  opening.lists.assign((lists + kBlockRows - 1) / kBlockRows, 0);
  double crowding = 0;
  std::size_t items = 0;
  for (std::size_t l = 0; l < lists; ++l) {
    std::size_t open_blocks = 0, open = 0;
    for (std::size_t b = segment.list_blocks[l]; b < segment.list_blocks[l + 1]; ++b) {
      open_blocks += mask[b] != 0;
      open += static_cast<std::size_t>(std::popcount(mask[b]));
    }
    if (open == 0) continue;
    opening.lists[l / kBlockRows] = static_cast<std::uint16_t>(opening.lists[l / kBlockRows] | 1u << l % kBlockRows);
    ++opening.num_lists;
    opening.rows += open_blocks * kBlockRows;
    items += open;
    const double rows = static_cast<double>(segment.list_blocks[l + 1] - segment.list_blocks[l]) * kBlockRows;
    crowding += static_cast<double>(open) * static_cast<double>(open) / rows;
  }
  if (items > 0) opening.concentration = crowding / static_cast<double>(items);
  return opening;
}

std::shared_ptr<Snapshot> snapshot_of(std::shared_ptr<const Segment> segment) {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->live = std::make_shared<LiveMask>(segment->present.data(), segment->present.data() + segment->present.size());
  snapshot->live_items = segment->items;
  snapshot->opening = std::make_shared<const Opening>(opening_of(*segment, *snapshot->live));
  snapshot->delta_live = std::make_shared<LiveMask>();
  snapshot->segment = std::move(segment);
  return snapshot;
}

}  // namespace aitems::ann
