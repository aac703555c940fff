// What one search sees: an immutable segment, which of its rows are still live, and the rows added since. The writer never
// changes what a published snapshot can reach: masks are copied, and new rows go behind the rows that snapshots count.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ann/segment.hpp"
#include "base/aligned_buffer.hpp"

namespace aitems::ann {

using LiveMask = std::vector<std::uint16_t>;  // bit i of [b]: row 16 b + i
inline bool live_at(const LiveMask& mask, std::size_t row) { return mask[row / kBlockRows] >> row % kBlockRows & 1; }
inline void clear_at(LiveMask& mask, std::size_t row) {
  mask[row / kBlockRows] = static_cast<std::uint16_t>(mask[row / kBlockRows] & ~(1u << row % kBlockRows));
}
inline void set_at(LiveMask& mask, std::size_t row) {
  mask[row / kBlockRows] = static_cast<std::uint16_t>(mask[row / kBlockRows] | 1u << row % kBlockRows);
}

constexpr std::size_t kDeltaChunkRows = 1024;

// Which lists are worth looking into for a mask of rows.
struct Opening {
  LiveMask lists;            // those with a row that may be returned
  int num_lists = 0;
  std::size_t rows = 0;      // in blocks with such a row; the others are skipped
  double concentration = 0;  // how full the list of such a row is with such rows, on average
};
Opening opening_of(const Segment& segment, const LiveMask& mask);

// Rows added since the segment was built: float vectors, searched exactly.
struct DeltaChunk {
  explicit DeltaChunk(int stride) : vectors(kDeltaChunkRows * static_cast<std::size_t>(stride)) {}
  AlignedBuffer<float> vectors;
  std::array<std::int64_t, kDeltaChunkRows> ids{};
  std::array<std::vector<std::vector<std::uint32_t>>, kDeltaChunkRows> values;  // [row][attribute]
};

struct Snapshot {
  std::shared_ptr<const Segment> segment;
  std::shared_ptr<const LiveMask> live;  // of the segment
  std::size_t live_items = 0;
  std::shared_ptr<const Opening> opening;  // for `live`
  std::vector<std::shared_ptr<DeltaChunk>> chunks;
  std::size_t delta_rows = 0;
  std::shared_ptr<const LiveMask> delta_live;
  std::size_t delta_live_items = 0;

  std::size_t size() const { return live_items + delta_live_items; }
  bool packed() const { return delta_rows == 0 && live_items == segment->items; }
  const float* delta_vector(std::size_t row) const {
    return chunks[row / kDeltaChunkRows]->vectors.data() + row % kDeltaChunkRows * static_cast<std::size_t>(segment->stride());
  }
  std::int64_t delta_id(std::size_t row) const { return chunks[row / kDeltaChunkRows]->ids[row % kDeltaChunkRows]; }
};

// All items of a segment, nothing added.
std::shared_ptr<Snapshot> snapshot_of(std::shared_ptr<const Segment> segment);

}  // namespace aitems::ann
