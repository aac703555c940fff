// Filters: an expression over attribute values, id sets and bitmaps, evaluated once a batch into one mask of rows.
#pragma once

#include <cstdint>
#include <vector>

#include "ann/snapshot.hpp"

namespace aitems::ann {

// One operation of a postfix program; the program leaves exactly one mask.
struct FilterNode {
  enum class Kind : std::int32_t { kValues = 0, kIds = 1, kBitmap = 2, kAnd = 3, kOr = 4, kNot = 5 };
  Kind kind;
  std::int32_t attribute = 0;              // kValues
  std::vector<std::uint32_t> values;       // kValues: rows with any of these
  std::vector<std::int64_t> ids;           // kIds: ascending
  std::vector<std::uint8_t> bitmap;        // kBitmap: byte i says whether id i passes; ids past its end do not
};
using FilterProgram = std::vector<FilterNode>;

struct RowMask {
  LiveMask base, delta;  // live rows that pass
  std::size_t base_items = 0, delta_items = 0;
  Opening opening;
};

RowMask evaluate(const FilterProgram& program, const Snapshot& snapshot);

}  // namespace aitems::ann
