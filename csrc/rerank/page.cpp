#include "rerank/page.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

#include "base/radix_sort.hpp"

namespace aitems {
namespace {

constexpr std::int32_t kNobody = -1;

// The i-th number in [0, 1) of a stream: splitmix64.
double uniform(std::uint64_t seed, std::uint64_t i) {
  std::uint64_t x = seed + (i + 1) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return static_cast<double>((x ^ (x >> 31)) >> 11) * 0x1.0p-53;
}

class Filler {
 public:
  Filler(const PageInput& input, double shadow_price)
      : in_(input),
        shadow_price_(shadow_price),
        organic_(in_.organic, in_.organic_count),
        placed_items_(in_.k),
        full_(in_.spacings.size()) {
    for (const Spacing& rule : in_.spacings) {
      codes_.push_back(rule.before);
      codes_.back().reserve(rule.before.size() + in_.k);
    }
    if (in_.cold) {
      for (std::size_t i = 0; i < in_.organic_count; ++i)
        if (in_.cold->cold[in_.organic[i]]) cold_rows_.push_back(in_.organic[i]);
      cold_ = Walk(cold_rows_.data(), cold_rows_.size());
    }
    page_.rows.reserve(in_.k);
    page_.relaxed.reserve(in_.k);
    page_.is_ad.reserve(in_.k);
    page_.propensity.reserve(in_.k);
  }

  // `expected`: the organic scores of the page without ads, in order
  const Page& run(const std::vector<double>* expected) {
    double total = 0;
    for (std::size_t p = 0; p < in_.k; ++p) {
      const std::size_t before = page_.rows.size();
      fill(p, expected);
      if (page_.rows.size() == before) break;
      const auto row = static_cast<std::size_t>(page_.rows.back());
      total += in_.weights[p];
      if (in_.cold && in_.cold->cold[row]) cold_weight_ += in_.weights[p];
      value(row, p);
    }
    page_.cold_share = total > 0 ? cold_weight_ / total : 0;
    return page_;
  }

  // Whether an ad that was worth its position was refused, for what it would have cost organic items.
  bool budget_binds() const { return budget_binds_; }

 private:
  // Rows in order of preference. Those that are gone leave the list, so that a value that has its share is not walked over at every
  // position.
  struct Walk {
    Walk() = default;
    Walk(const std::int32_t* first, std::size_t count) : rows(first), next(count + 1) { std::iota(next.begin(), next.end(), std::size_t{1}); }
    const std::int32_t* rows = nullptr;
    std::vector<std::size_t> next;  // next[i]: the place, from 1, of the row that is walked to after the i-th; 0 = the first
  };

  static std::size_t count(const std::int32_t* values, std::size_t begin, std::size_t end, std::int32_t value) {
    std::int32_t found = 0;
    for (std::size_t i = begin; i < end; ++i) found += values[i] == value;
    return static_cast<std::size_t>(found);
  }

  bool of_page(const Spacing& rule) const { return rule.window >= in_.k && rule.before.empty(); }

  // Says which codes have no room at the next position. Those of rules over the whole page only become more; see `place`.
  void list_full() {
    for (std::size_t r = 0; r < in_.spacings.size(); ++r) {
      const Spacing& rule = in_.spacings[r];
      if (of_page(rule)) continue;
      full_[r].clear();
      const std::vector<std::int32_t>& codes = codes_[r];
      const std::size_t from = codes.size() - std::min(codes.size(), rule.window - 1);
      for (std::size_t p = from; p < codes.size(); ++p)
        if (count(codes.data(), from, p + 1, codes[p]) == rule.cap) full_[r].push_back(codes[p]);
    }
  }

  bool no_room(std::size_t r, std::int32_t row) const {
    const std::int32_t code = in_.spacings[r].code(row);
    return code >= 0 && count(full_[r].data(), 0, full_[r].size(), code) > 0;
  }

  bool on_page(std::int32_t row) const { return count(placed_items_.data(), 0, page_.rows.size(), in_.items[row]) > 0; }

  bool fits(std::int32_t row, int level) const {
    if (in_.levels[row] > level) return false;
    for (std::size_t r = 0; r < in_.spacings.size(); ++r)
      if (in_.spacings[r].relax_level > level && no_room(r, row)) return false;
    return !on_page(row);
  }

  // The first row that fits once relaxing has reached the level.
  std::int32_t find_relaxed(int level) const {
    for (std::size_t i = 0; i < in_.organic_count; ++i)
      if (fits(in_.organic[i], level)) return in_.organic[i];
    return kNobody;
  }

  // The first row that fits without relaxing.
  std::int32_t find(Walk& walk) const {
    for (std::size_t before = 0; walk.next[before] < walk.next.size();) {
      const std::size_t at = walk.next[before];
      const std::int32_t row = walk.rows[at - 1];
      bool fitting = true, gone = in_.levels[row] > 0;
      for (std::size_t r = 0; r < in_.spacings.size() && !gone; ++r) {
        if (!no_room(r, row)) continue;
        fitting = false;
        gone = of_page(in_.spacings[r]);
      }
      if (fitting && !gone) {
        if (!on_page(row)) return row;
        gone = true;
      }
      if (gone)
        walk.next[before] = walk.next[at];
      else
        before = at;
    }
    return kNobody;
  }

  void place(std::int32_t row, int level, bool ad, double propensity) {
    const std::size_t p = page_.rows.size();
    placed_items_[p] = in_.items[row];
    for (std::size_t r = 0; r < in_.spacings.size(); ++r) {
      const Spacing& rule = in_.spacings[r];
      std::vector<std::int32_t>& codes = codes_[r];
      codes.push_back(rule.code(row));
      if (of_page(rule) && count(codes.data(), 0, codes.size(), codes.back()) == rule.cap) full_[r].push_back(codes.back());
    }
    page_.rows.push_back(row);
    page_.relaxed.push_back(static_cast<std::uint8_t>(level));
    page_.is_ad.push_back(ad);
    page_.propensity.push_back(static_cast<float>(propensity));
  }

  void fill(std::size_t p, const std::vector<double>* expected) {
    list_full();
    int level = 0;
    std::int32_t row = find(organic_);
    if (in_.exploration && in_.exploration->slots[p] && row != kNobody) {
      explore(p, row);
      return;
    }
    const std::int32_t ad = expected ? next_ad() : kNobody;
    while (row == kNobody && level < in_.relax_levels) row = find_relaxed(++level);
    if (ad != kNobody && ad_pays(p, ad, row, *expected)) {
      place(ad, 0, true, 1);
      ++ads_;
      last_ad_ = p;
      return;
    }
    if (row == kNobody) return;
    if (in_.cold && !in_.cold->cold[row] && cold_due(p)) {
      const std::int32_t cold = find(cold_);
      const double own = in_.scores[row];
      // a floor of 0.8 is 0.8 of a score above zero, and 1 / 0.8 of one below
      const double least = own >= 0 ? own * in_.cold->quality_floor : own / std::max(in_.cold->quality_floor, 1e-9);
      if (cold != kNobody && in_.scores[cold] >= least) {
        place(cold, 0, false, 1);
        return;
      }
      ++page_.cold_missed;
    }
    place(row, level, false, 1);
  }

  bool cold_due(std::size_t p) const {
    double all = 0;
    for (std::size_t q = 0; q <= p; ++q) all += in_.weights[q];
    return in_.cold->share * all - cold_weight_ + in_.cold->dither * in_.weights[p] >= in_.weights[p] * (1 - 1e-9);
  }

  std::int32_t next_ad() const {
    if (!in_.ad_rules || ads_ >= in_.ad_rules->max_ads) return kNobody;
    if (ads_ > 0 && page_.rows.size() - last_ad_ <= in_.ad_rules->gap) return kNobody;
    const std::int32_t* const end = in_.ads + in_.ads_count;
    const std::int32_t* const found = std::find_if(in_.ads, end, [&](std::int32_t row) { return fits(row, 0); });
    return found == end ? kNobody : *found;
  }

  double ad_value(std::int32_t ad) const {
    const auto row = static_cast<std::size_t>(ad);
    return known(in_.bid, row) * known(in_.pctr, row) + in_.ad_rules->organic_weight * in_.scores[row];
  }

  bool ad_pays(std::size_t p, std::int32_t ad, std::int32_t row, const std::vector<double>& expected) {
    const AdRules& rules = *in_.ad_rules;
    const double multiple = shadow_price_ * (p == 0 ? rules.top_slot_multiple : 1);
    if (std::isinf(multiple)) return false;
    const double organic = row == kNobody ? 0 : rules.organic_weight * in_.scores[row];
    if (!(ad_value(ad) >= multiple * organic)) return false;
    // what it costs to push the organic items from here on down by one position
    double whole = 0, loss = 0;
    for (std::size_t q = 0; q < expected.size(); ++q) whole += in_.weights[q] * expected[q];
    for (std::size_t q = p; q < in_.k; ++q) {
      const auto score = [&](std::size_t shift) { return q >= shift && q - shift < expected.size() ? expected[q - shift] : 0.0; };
      loss += in_.weights[q] * (score(ads_) - (q > p ? score(ads_ + 1) : 0.0));
    }
    if (loss_ + loss > rules.organic_loss_budget * whole) {
      budget_binds_ = true;
      return false;
    }
    loss_ += loss;
    return true;
  }

  // `own`: the row whose turn it is
  void explore(std::size_t p, std::int32_t own) {
    const Exploration& rule = *in_.exploration;
    std::vector<std::int32_t> rows;
    std::vector<double> chance;
    double sum = 0;
    std::size_t own_at = static_cast<std::size_t>(-1);
    for (std::size_t i = 0; i < rule.pool_size; ++i) {
      if (!fits(rule.pool[i], 0)) continue;
      if (rule.pool[i] == own) own_at = rows.size();
      rows.push_back(rule.pool[i]);
      chance.push_back(rule.chance[i]);
      sum += rule.chance[i];
    }
    if (own_at > rows.size()) {
      own_at = rows.size();
      rows.push_back(own);
      chance.push_back(0);
    }
    const std::size_t n = rows.size();
    const double floor = std::min(rule.floor, 1.0 / static_cast<double>(n));
    const double ceiling = n == 1 ? 1 : rule.ceiling;
    std::size_t best = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const double best_chance = sum > 0 ? chance[i] / sum : (i == own_at ? 1.0 : 0.0);
      const double mixed = rule.rate * best_chance + (i == own_at ? 1 - rule.rate : 0);
      chance[i] = floor + (1 - static_cast<double>(n) * floor) * mixed;
      if (chance[i] > chance[best]) best = i;
    }
    if (chance[best] > ceiling) {  // the ceiling is at least a half, so only one can pass it
      const double share = (chance[best] - ceiling) / static_cast<double>(n - 1);
      for (std::size_t i = 0; i < n; ++i) chance[i] = i == best ? ceiling : chance[i] + share;
    }
    double left = uniform(rule.seed, p);
    std::size_t drawn = 0;
    while (drawn + 1 < n && (left -= chance[drawn]) >= 0) ++drawn;
    place(rows[drawn], 0, false, chance[drawn]);
  }

  static double known(const float* values, std::size_t row) { return values && std::isfinite(values[row]) ? values[row] : 0; }

  void value(std::size_t row, std::size_t p) {
    const double click = in_.weights[p] * known(in_.pctr, row);
    page_.clicks += click;
    page_.revenue += click * known(in_.pcvr, row) * known(in_.price, row);
    if (page_.is_ad.back()) page_.revenue += click * known(in_.bid, row);
  }

  const PageInput& in_;
  const double shadow_price_;
  Page page_;
  Walk organic_, cold_;
  std::vector<std::int32_t> cold_rows_;
  std::vector<std::int32_t> placed_items_;                 // of the positions so far
  std::vector<std::vector<std::int32_t>> codes_;           // for each rule the codes before the page and of the positions so far
  std::vector<std::vector<std::int32_t>> full_;            // for each rule the codes that have no room now
  double cold_weight_ = 0, loss_ = 0;
  bool budget_binds_ = false;
  std::size_t ads_ = 0, last_ad_ = 0;
};

}  // namespace

Page fill_page(const PageInput& input) {
  Page best = Filler(input, 1).run(nullptr);
  if (!input.ad_rules || input.ads_count == 0) return best;
  std::vector<double> expected;
  double whole = 0;
  for (std::int64_t row : best.rows) {
    whole += input.weights[expected.size()] * input.scores[row];
    expected.push_back(input.scores[row]);
  }
  // Where the budget binds, ads as early as possible are not the best use of it: with a shadow price on organic value they come
  // later, where they cost less. Of some prices the one is taken that earns most. What an ad costs is predicted from the page
  // without ads; rules may shift more than that, so what was really lost decides.
  double most = 0;
  for (double shadow_price : {1.0, 1.5, 2.25, 3.4, 5.0, 7.5, 11.0}) {
    Filler filler(input, shadow_price);
    const Page& page = filler.run(&expected);
    double left = 0, earned = 0;
    for (std::size_t p = 0; p < page.rows.size(); ++p) {
      const std::int64_t row = page.rows[p];
      if (!page.is_ad[p])
        left += input.weights[p] * input.scores[row];
      else if (input.pctr && input.bid)
        earned += input.weights[p] * input.pctr[row] * input.bid[row];
    }
    const double loss = whole > 0 ? (whole - left) / whole : 0;
    if (earned > most && loss <= input.ad_rules->organic_loss_budget) {
      most = earned;
      best = page;
      best.organic_loss = loss;
    }
    if (!filler.budget_binds() && loss <= input.ad_rules->organic_loss_budget) break;
  }
  return best;
}

std::vector<std::int32_t> falling_order(const double* scores, std::size_t count) {
  thread_local std::vector<Keyed> scratch, spare;
  std::vector<Keyed>& rows = scratch;
  rows.clear();
  for (std::size_t row = 0; row < count; ++row)
    if (std::isfinite(scores[row])) rows.push_back({falling_key(scores[row]), static_cast<std::uint32_t>(row)});
  radix_sort(rows, spare);
  std::vector<std::int32_t> order(rows.size());
  std::transform(rows.begin(), rows.end(), order.begin(), [](const Keyed& row) { return static_cast<std::int32_t>(row.value); });
  return order;
}

std::vector<double> relevance(const double* scores, const std::int32_t* rows, std::size_t count) {
  std::vector<double> out(count);
  std::transform(rows, rows + count, out.begin(), [&](std::int32_t row) { return scores[row]; });
  if (out.empty()) return out;
  const auto [least, greatest] = std::minmax_element(out.begin(), out.end());
  const double low = *least, span = *greatest - low;
  for (double& score : out) score = span > 0 ? (score - low) / span : 0;
  return out;
}

std::vector<std::int32_t> put_first(const std::int32_t* rows, std::size_t count, const std::int32_t* organic, std::size_t organic_count,
                                    std::size_t size) {
  std::vector<std::uint8_t> first(size, 0);
  std::vector<std::int32_t> out(rows, rows + count);
  out.reserve(count + organic_count);
  for (std::int32_t row : out) first[static_cast<std::size_t>(row)] = 1;
  std::copy_if(organic, organic + organic_count, std::back_inserter(out), [&](std::int32_t row) { return !first[static_cast<std::size_t>(row)]; });
  return out;
}

std::vector<double> chances_to_be_best(const double* means, const double* deviations, std::size_t count) {
  constexpr std::size_t kSteps = 48;
  double low = -std::numeric_limits<double>::infinity(), high = low;
  for (std::size_t i = 0; i < count; ++i) {
    low = std::max(low, means[i] - 5 * deviations[i]);
    high = std::max(high, means[i] + 5 * deviations[i]);
  }
  // who cannot reach the lowest value that the best can have is never the best
  std::vector<std::size_t> able;
  for (std::size_t i = 0; i < count; ++i)
    if (means[i] + 5 * deviations[i] >= low) able.push_back(i);
  std::vector<double> below(count, 0), here(count, 0), chance(count, 0);
  for (std::size_t step = 0; step <= kSteps; ++step) {
    const double x = low + (high - low) * static_cast<double>(step) / kSteps;
    double all = 1;  // all values below the middle of this step
    for (std::size_t i : able) {
      const double z = (x - means[i]) / deviations[i];
      here[i] = z > 6 || step == kSteps ? 1.0 : z < -6 ? 0.0 : 0.5 * std::erfc(-z * 0.70710678118654752);
      all *= 0.5 * (below[i] + here[i]);
    }
    for (std::size_t i : able) {
      const double middle = 0.5 * (below[i] + here[i]);
      if (middle > 0) chance[i] += (here[i] - below[i]) * all / middle;
      below[i] = here[i];
    }
  }
  double sum = 0;
  for (double c : chance) sum += c;
  for (double& c : chance) c /= sum;
  return chance;
}

}  // namespace aitems
