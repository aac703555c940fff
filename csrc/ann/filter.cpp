#include "ann/filter.hpp"

#include <algorithm>
#include <bit>
#include <string>

#include "base/error.hpp"

namespace aitems::ann {
namespace {

void set(LiveMask& mask, std::size_t row) {
  mask[row / kBlockRows] = static_cast<std::uint16_t>(mask[row / kBlockRows] | 1u << row % kBlockRows);
}

bool passes(const FilterNode& node, std::int64_t id) {
  if (node.kind == FilterNode::Kind::kIds) return std::binary_search(node.ids.begin(), node.ids.end(), id);
  return static_cast<std::uint64_t>(id) < node.bitmap.size() && node.bitmap[static_cast<std::size_t>(id)];
}

RowMask leaf(const FilterNode& node, const Snapshot& snapshot) {
  const Segment& segment = *snapshot.segment;
  RowMask mask{LiveMask(segment.blocks()), LiveMask(snapshot.delta_live->size()), 0, 0, {}};
  if (node.kind == FilterNode::Kind::kValues) {
    const std::size_t attribute = static_cast<std::size_t>(node.attribute);
    for (std::uint32_t value : node.values) {
      // A value that came with an added item is unknown to the segment.
      if (attribute < segment.attributes.size() && value + 1 < segment.attributes[attribute].starts.size()) {
        const Postings& postings = segment.attributes[attribute];
        for (std::uint64_t i = postings.starts[value]; i < postings.starts[value + 1]; ++i) set(mask.base, postings.rows[i]);
      }
    }
    for (std::size_t row = 0; row < snapshot.delta_rows; ++row) {
      const auto& held = snapshot.chunks[row / kDeltaChunkRows]->values[row % kDeltaChunkRows];
      if (attribute < held.size() && std::any_of(held[attribute].begin(), held[attribute].end(), [&](std::uint32_t value) {
            return std::find(node.values.begin(), node.values.end(), value) != node.values.end();
          }))
        set(mask.delta, row);
    }
    return mask;
  }
  if (node.kind == FilterNode::Kind::kIds) {
    if (node.ids.size() * 16 < segment.items) {
      for (std::int64_t id : node.ids)
        if (const std::int64_t row = segment.row_of(id); row >= 0) set(mask.base, static_cast<std::size_t>(row));
    } else {  // both are sorted: walking along costs less than so many binary searches
      std::size_t at = 0;
      for (std::size_t i = 0; i < segment.items; ++i) {
        const std::uint32_t row = segment.by_id[i];
        while (at < node.ids.size() && node.ids[at] < segment.ids[row]) ++at;
        if (at == node.ids.size()) break;
        if (node.ids[at] == segment.ids[row]) set(mask.base, row);
      }
    }
  } else {
    for (std::size_t row = 0; row < segment.rows; ++row)
      if (passes(node, segment.ids[row])) set(mask.base, row);
  }
  for (std::size_t row = 0; row < snapshot.delta_rows; ++row)
    if (passes(node, snapshot.delta_id(row))) set(mask.delta, row);
  return mask;
}

template <class Operation>
void combine(LiveMask& left, const LiveMask& right, const Operation& operation) {
  for (std::size_t i = 0; i < left.size(); ++i) left[i] = static_cast<std::uint16_t>(operation(left[i], right[i]));
}

std::size_t keep_live(LiveMask& mask, const LiveMask& live) {
  std::size_t items = 0;
  for (std::size_t i = 0; i < mask.size(); ++i) {
    mask[i] = static_cast<std::uint16_t>(mask[i] & live[i]);
    items += static_cast<std::size_t>(std::popcount(mask[i]));
  }
  return items;
}

}  // namespace

RowMask evaluate(const FilterProgram& program, const Snapshot& snapshot) {
  std::vector<RowMask> stack;
  for (const FilterNode& node : program) {
    const std::size_t wanted = node.kind == FilterNode::Kind::kNot ? 1 : 2;
    if (node.kind < FilterNode::Kind::kAnd) {
      stack.push_back(leaf(node, snapshot));
      continue;
    }
    if (stack.size() < wanted) throw Error(ErrorKind::kInvalidInput, "filter program: an operation has no operand");
    if (node.kind == FilterNode::Kind::kNot) {
      for (auto* mask : {&stack.back().base, &stack.back().delta})
        for (std::uint16_t& bits : *mask) bits = static_cast<std::uint16_t>(~bits);
      continue;
    }
    const RowMask right = std::move(stack.back());
    stack.pop_back();
    const auto both = [&](const auto& operation) {
      combine(stack.back().base, right.base, operation);
      combine(stack.back().delta, right.delta, operation);
    };
    if (node.kind == FilterNode::Kind::kAnd) {
      both([](unsigned a, unsigned b) { return a & b; });
    } else {
      both([](unsigned a, unsigned b) { return a | b; });
    }
  }
  if (stack.size() != 1) throw Error(ErrorKind::kInvalidInput, "filter program must leave one mask, left " + std::to_string(stack.size()));
  RowMask mask = std::move(stack.back());
  mask.base_items = keep_live(mask.base, *snapshot.live);  // also removes the padding that `not` brought in
  mask.opening = opening_of(*snapshot.segment, mask.base);
  mask.delta_items = keep_live(mask.delta, *snapshot.delta_live);
  return mask;
}

}  // namespace aitems::ann
