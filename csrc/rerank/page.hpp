// One page from ranked candidates: position by position the first candidate that no rule forbids, ads and cold items where their
// rules ask for them, exploration where it may. Rules are looked at only for the candidates that are walked over. Where nobody
// is left, the relaxable rules are given up in the declared order, for that position only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace aitems {

// At most `cap` items with one code in any `window` consecutive positions. Code -1 (unknown) is free.
struct Spacing {
  const std::int32_t* codes;
  std::size_t cap;
  std::size_t window;
  int relax_level;  // given up from this level on; kNeverRelaxed
  const std::int32_t* places = nullptr;  // of each row in codes; null = its own
  std::vector<std::int32_t> before{};    // codes of what stands before the page, the last one next to it; fewer than `window`

  std::int32_t code(std::int32_t row) const { return codes[places ? places[row] : row]; }
};
constexpr int kNeverRelaxed = 255;

struct ColdQuota {
  const std::uint8_t* cold;  // (n,)
  double share;              // of the positions' weights
  double quality_floor;      // a cold item is taken out of turn only with this part of the score of the item whose turn it is
  double dither;             // [0, 1): how much of a position's weight counts as due from the start, so that rounding is fair
};

struct AdRules {
  std::size_t gap;             // organic items between two ads, at least
  std::size_t max_ads;
  double top_slot_multiple;    // the first position needs this many times the organic value; infinity = never
  double organic_weight;       // money for one unit of the objective
  double organic_loss_budget;  // share of the page's organic value that ads may cost
};

struct Exploration {
  const std::int32_t* pool;
  const double* chance;       // of each in the pool to be the best
  std::size_t pool_size;
  const std::uint8_t* slots;  // (k,)
  double rate;                // share of an exploration slot that is really explored
  double floor, ceiling;      // of the probability with which an item of the pool is shown at such a slot
  std::uint64_t seed;
};

struct PageInput {
  std::size_t k = 0;
  const double* weights = nullptr;       // (k,) how much each position is looked at
  const std::int32_t* items = nullptr;   // (n,) an item is shown once, whoever brings it
  const double* scores = nullptr;        // (n,)
  const std::int32_t* organic = nullptr; // rows in order of preference
  std::size_t organic_count = 0;
  const std::int32_t* ads = nullptr;
  std::size_t ads_count = 0;
  const std::uint8_t* levels = nullptr;  // (n,) 0 = fine, l = only once relaxing has reached level l
  int relax_levels = 0;                  // how many levels there are
  std::vector<Spacing> spacings;
  const ColdQuota* cold = nullptr;
  const AdRules* ad_rules = nullptr;     // without them no ad is shown
  const Exploration* exploration = nullptr;
  // null, or NaN in a row: not known, counts as nothing
  const float* pctr = nullptr;
  const float* pcvr = nullptr;
  const float* price = nullptr;
  const float* bid = nullptr;
};

struct Page {
  std::vector<std::int64_t> rows;
  std::vector<std::uint8_t> relaxed;    // level that each position needed
  std::vector<std::uint8_t> is_ad;
  std::vector<float> propensity;        // probability of this row at this position, given the rows before it
  double clicks = 0, revenue = 0;       // predicted, weighted by position
  double cold_share = 0;                // of the positions' weights
  std::size_t cold_missed = 0;          // positions where a cold item was due and none was good enough
  double organic_loss = 0;              // share of the organic value that the ads cost
};

Page fill_page(const PageInput& input);

// The rows with a finite score by falling score, equal ones by row.
std::vector<std::int32_t> falling_order(const double* scores, std::size_t count);

// The scores of rows, from 0 (the least of them) to 1 (the greatest).
std::vector<double> relevance(const double* scores, const std::int32_t* rows, std::size_t count);

// The rows, then the others of `organic` in their order; all below `size`.
std::vector<std::int32_t> put_first(const std::int32_t* rows, std::size_t count, const std::int32_t* organic, std::size_t organic_count,
                                    std::size_t size);

// Probability of each to have the largest of independent normal values, by numerical integration over a common grid.
std::vector<double> chances_to_be_best(const double* means, const double* deviations, std::size_t count);

}  // namespace aitems
