#include "ann/plan.hpp"

#include <algorithm>
#include <cmath>

namespace aitems::ann {
namespace {

struct Question {
  const Segment& segment;
  const Opening& opening;
  std::size_t items;
  const SearchOptions& options;
  bool masked;
};

// Rough costs in ns on one core; only their ratios matter. A row scored exactly is a random read and a float product; a row of
// codes is part of a stream, and cheaper still where many queries share it.
double cost_of_subset(const Segment& s, std::size_t rows) { return static_cast<double>(rows) * (2 + .035 * s.dim); }
constexpr double kExactPreferred = 1.25;  // the costs are rough, and the exact answer is worth something
constexpr double kRow = .012, kGroupedRow = .004, kSignRow = .005;  // a dimension of a row
double cost_of_lists(const Segment& s, const Effort& effort, const Opening& opening, double row, double centroid) {
  const double share = std::min(1.0, static_cast<double>(effort.probes) / std::max(1, opening.num_lists));
  return s.dim * (row * static_cast<double>(opening.rows) * share + centroid * s.lists) + effort.shortlist * (10 + .05 * s.dim);
}

// How many lists to look into and how many candidates to score, by what was measured.
Effort plan_lists(const Question& asked, const std::vector<Effort>& efforts) {
  const Segment& s = asked.segment;
  const std::size_t wanted = std::min(static_cast<std::size_t>(asked.options.k), asked.items);
  // Only some of the probed rows may be returned: probe as for that many more results.
  const double thinned = static_cast<double>(wanted) * static_cast<double>(s.items) / static_cast<double>(asked.items);
  Effort effort = effort_for(efforts, thinned, s.lists);
  if (asked.masked) {  // the next measured row above: between two rows recall could dip
    const auto above = std::find_if(efforts.begin(), efforts.end(), [&](const Effort& e) { return e.k >= thinned; });
    if (above != efforts.end()) effort.probes = above->probes;
  }
  // A filter that follows the lists (a category, say) also lets in queries that come from elsewhere, for which the order of the
  // lists says little: look into all that are open. They are few, or the filter is wide.
  constexpr double kFollowsLists = 1.3;
  const double share = static_cast<double>(asked.items) / static_cast<double>(s.rows);
  if (asked.masked && asked.opening.concentration > kFollowsLists * share) effort.probes = std::max(1, asked.opening.num_lists);
  if (asked.options.probes > 0) effort.probes = std::min(asked.options.probes, s.lists);
  const Effort unthinned = effort_for(efforts, static_cast<double>(wanted), s.lists);
  effort.shortlist = std::max(asked.options.shortlist > 0 ? asked.options.shortlist : unthinned.shortlist, static_cast<int>(wanted));
  effort.shortlist = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(effort.shortlist), asked.items));
  return effort;
}

// What a walk is worth beside the scan of a list: a row apart costs as much as so many rows in a stream. About half of a beam's
// out-neighbours are new.
double cost_of_walk(const Segment& s, int beam) {
  constexpr double kApart = 11, kNew = .5;
  return kRow * s.dim * (kApart * (kNew * beam * s.graph.degree + kWalkLists * kBlockRows) + s.lists);
}
constexpr std::size_t kAloneQueries = 32;  // more in one call share the rows of lists
constexpr double kWalkLive = .5;          // rows that may be returned; where there are fewer, walks pass by too many others

// A walk's shortlist, and its beam as `probes`: 0 if that is not how to search.
Effort plan_walk(const Question& asked, const SearchPlan& plan, double cost) {
  const Segment& s = asked.segment;
  const SearchOptions& options = asked.options;
  const bool wished = options.form == Form::kGraph;
  if (s.graph.empty() || (!wished && (options.form != Form::kAuto || options.probes > 0))) return {};
  const std::size_t wanted = std::min(static_cast<std::size_t>(options.k), asked.items);
  const double thinned = static_cast<double>(wanted) * static_cast<double>(s.items) / static_cast<double>(asked.items);
  const std::vector<Effort>& efforts = asked.masked ? plan.walk_filtered : plan.walk;
  const bool measured = !efforts.empty() && thinned <= efforts.back().k;
  Effort effort = effort_for(measured ? efforts : std::vector<Effort>{}, thinned, static_cast<int>(s.items));
  if (!measured) effort.probes = std::max(64, 4 * effort.k);
  if (options.shortlist > 0) effort.shortlist = options.shortlist;
  if (options.beam > 0) effort.probes = options.beam;
  effort.shortlist = static_cast<int>(std::min<std::size_t>(std::max<std::size_t>(static_cast<std::size_t>(effort.shortlist), wanted), asked.items));
  effort.probes = std::max(effort.probes, effort.shortlist);
  if (wished || options.beam > 0) return effort;
  // Where a filter follows the lists, all that is near to a query may be shut out, and a walk would not come to the rest.
  constexpr double kFollowsLists = 1.1;
  const double share = static_cast<double>(asked.items) / static_cast<double>(s.rows);
  const bool spread = !asked.masked || asked.opening.concentration <= kFollowsLists * share;
  const bool pays = measured && spread && static_cast<double>(asked.items) >= kWalkLive * static_cast<double>(s.items) &&
                    cost_of_walk(s, effort.probes) < cost;
  return pays ? effort : Effort{};
}

}  // namespace

Effort effort_for(const std::vector<Effort>& efforts, double k, int lists) {
  const int wanted = static_cast<int>(std::min(1e9, std::ceil(k)));
  Effort effort{wanted, lists, std::max(2 * wanted, 32)};
  if (!efforts.empty()) {
    const auto above = std::find_if(efforts.begin(), efforts.end(), [&](const Effort& e) { return e.k >= k; });
    if (above == efforts.begin()) {
      effort.probes = above->probes;
      effort.shortlist = above->shortlist;
    } else if (above == efforts.end()) {
      const double factor = k / efforts.back().k;  // nothing was measured here: every list
      effort.shortlist = static_cast<int>(std::min(1e9, std::ceil(efforts.back().shortlist * factor)));
    } else {
      const Effort& low = *(above - 1);
      const double t = std::log(k / low.k) / std::log(static_cast<double>(above->k) / low.k);
      const auto between = [t](int a, int b) {  // geometric: both grow roughly with a power of k
        return static_cast<int>(std::ceil(std::exp(std::log(static_cast<double>(a)) * (1 - t) + std::log(static_cast<double>(b)) * t) - 1e-9));
      };
      effort.probes = between(low.probes, above->probes);
      effort.shortlist = between(low.shortlist, above->shortlist);
    }
  }
  effort.probes = std::clamp(effort.probes, 1, std::max(1, lists));
  effort.shortlist = std::max(effort.shortlist, wanted);
  return effort;
}

Way choose_way(const Segment& s, const Opening& opening, std::size_t items, const SearchPlan& plan, const SearchOptions& options,
               std::size_t count, bool masked) {
  Way way;
  way.exact = s.lists == 0 || options.form == Form::kExact;
  way.name = way.exact ? "exact" : "lists";
  if (way.exact || items == 0) return way;
  const Question asked{s, opening, items, options, masked};
  way.effort = plan_lists(asked, masked ? plan.filtered : plan.target);
  const bool grouped = count >= kAloneQueries;
  double cost = cost_of_lists(s, way.effort, opening, grouped ? kGroupedRow : kRow, grouped ? kGroupedRow : kRow);
  const std::vector<Effort>& signs = masked ? plan.signs_filtered : plan.signs;
  const bool signs_wished = options.form == Form::kSigns;
  if (!s.signs.empty() && (signs_wished || (options.form == Form::kAuto && options.probes == 0 && !grouped && !signs.empty()))) {
    const Effort effort = plan_lists(asked, signs);
    const double signs_cost = cost_of_lists(s, effort, opening, kSignRow, kRow);
    if (signs_wished || signs_cost < cost) {
      way.effort = effort;
      way.signs = true;
      way.name = "signs";
      cost = signs_cost;
    }
  }
  if (const Effort walk = plan_walk(asked, plan, cost); walk.probes > 0) {
    way.effort = {walk.k, kWalkLists, walk.shortlist};
    way.beam = walk.probes;
    way.name = "graph";
    cost = cost_of_walk(s, way.beam);
  }
  const bool chosen = options.probes > 0 || options.form == Form::kGraph || signs_wished;
  if (masked && !chosen && cost_of_subset(s, items) <= kExactPreferred * cost) {
    way.exact = true;
    way.name = "exact";
  }
  return way;
}

}  // namespace aitems::ann
