// How to search: by lists, their signs, a walk on the graph or an exact scan, and with how much effort, by what was measured when the
// index was built and by rough costs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

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

// What one call does.
struct Way {
  Effort effort;
  const char* name = "lists";
  bool exact = false;
  bool signs = false;  // scan the signs of the lists
  int beam = 0;        // above 0: walk on the graph
};

// `items` of the segment may be returned, where `opening` says; `masked`: a filter chose them. For `count` queries.
Way choose_way(const Segment& segment, const Opening& opening, std::size_t items, const SearchPlan& plan, const SearchOptions& options,
               std::size_t count, bool masked);

}  // namespace aitems::ann
