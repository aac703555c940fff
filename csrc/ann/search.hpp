// Search over one snapshot: exact scan, scan of inverted lists one query at a time, the same scan with a batch's queries grouped by
// list (both return the same rows for the same probed lists), a scan of their signs, and a walk on the graph.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ann/filter.hpp"
#include "ann/plan.hpp"
#include "ann/snapshot.hpp"

namespace aitems::ann {

// Queries: `dim` floats each (normalised for cosine). Writes k ids and scores a query, best first; -1 and -inf where there are
// no more. `mask` null: all live rows. Returns how it was done: "exact", "exact subset", "lists", "signs", "graph" or "empty".
const char* search(const Snapshot& snapshot, const SearchPlan& plan, const float* queries, std::size_t count, const SearchOptions& options,
                   const RowMask* mask, std::int64_t* ids, float* scores);

}  // namespace aitems::ann
