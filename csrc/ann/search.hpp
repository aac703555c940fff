// Search over one snapshot: exact scan, scan of inverted lists one query at a time, the same scan with a batch's queries grouped by
// list (both return the same rows for the same probed lists), a scan of their signs, and a walk on the graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ann/filter.hpp"
#include "ann/snapshot.hpp"
#include "simd/isa.hpp"

namespace aitems::ann {

// How many lists to probe and how many candidates to score exactly, by the number of results wanted. Ascending in k;
// between two rows values are interpolated (in log k); beyond the last all lists are probed.
struct Effort {
  int k = 0;
  int probes = 0;
  int shortlist = 0;
};
struct SearchPlan {
  std::vector<Effort> target;    // reaches the recall target
  std::vector<Effort> filtered;  // reaches .99: filtered searches never trade recall
  // The same for walks on the graph; `probes` is the beam, and beyond the last row there are none.
  std::vector<Effort> walk, walk_filtered;
  std::vector<Effort> signs, signs_filtered;  // the first two for scans of signs
};
Effort effort_for(const std::vector<Effort>& efforts, double k, int lists);

enum class Form : std::int32_t { kAuto = 0, kSingle = 1, kGrouped = 2, kExact = 3, kGraph = 4, kSigns = 5 };

struct SearchOptions {
  int k = 10;
  int probes = 0;     // 0: by the plan
  int shortlist = 0;  // 0: by the plan
  int beam = 0;       // 0: by the plan
  int threads = 1;
  Form form = Form::kAuto;
  Isa isa = Isa::kBaseline;
};

// Queries: `dim` floats each (normalised for cosine). Writes k ids and scores a query, best first; -1 and -inf where there are
// no more. `mask` null: all live rows. Returns how it was done: "exact", "exact subset", "lists", "signs", "graph" or "empty".
const char* search(const Snapshot& snapshot, const SearchPlan& plan, const float* queries, std::size_t count, const SearchOptions& options,
                   const RowMask* mask, std::int64_t* ids, float* scores);

}  // namespace aitems::ann
