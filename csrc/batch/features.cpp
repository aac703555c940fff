#include "batch/features.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "base/error.hpp"
#include "base/thread_pool.hpp"

namespace aitems::batch {
namespace {

constexpr std::int64_t kHourMs = 3'600'000;
constexpr double kDayMs = 24.0 * kHourMs;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr std::size_t kPrefetchRows = 16;

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a / b - (a % b < 0); }

// What candidates get that share an attribute with the history.
struct Shared {
  float log_count, share;
};

// Events by code. Open addressing, at most a quarter full: most look-ups end at their first slot, which processors foresee.
struct SharedTable {
  std::vector<std::int32_t> codes;  // -1: empty, with zeros in the others
  std::vector<Shared> shared;
  std::vector<double> weights;
  std::uint32_t mask = 0;

  void clear(std::size_t events) {
    const std::size_t size = std::bit_ceil(4 * events + 4);
    if (codes.size() < size) codes.resize(size), shared.resize(size), weights.resize(size);
    std::fill_n(codes.begin(), size, -1);
    std::fill_n(shared.begin(), size, Shared{0, 0});
    std::fill_n(weights.begin(), size, 0.0);
    mask = static_cast<std::uint32_t>(size - 1);
  }
  std::uint32_t slot(std::int32_t code) const {
    std::uint32_t at = (static_cast<std::uint32_t>(code) * 0x9E3779B1u) >> 7 & mask;
    while (codes[at] != code && codes[at] != -1) at = (at + 1) & mask;
    return at;
  }
};

}  // namespace

// What a request's candidates have in common.
struct FeatureTable::Scratch {
  std::vector<double> weights;      // of the events, for one half-life
  std::vector<SharedTable> shared;  // one a match column
  std::vector<double> means;        // one a number
  std::vector<std::int32_t> codes;  // of the newest item, contexts, hour, weekday
  std::vector<float> tail;          // recency, length
};

FeatureTable::FeatureTable(FeaturePlan plan, std::size_t items, const ItemColumns& columns)
    : plan_(std::move(plan)),
      items_(items),
      item_codes_(static_cast<int>(columns.codes.size())),
      matches_(static_cast<int>(columns.matches.size())),
      statics_(static_cast<int>(columns.statics.size())),
      statistics_(static_cast<int>(columns.statistics.size())),
      numbers_(static_cast<int>(columns.numbers.size())) {
  codes_ = item_codes_ + static_cast<int>(plan_.last_codes.size()) + plan_.contexts + plan_.hour + plan_.weekday + (plan_.position_max > 0);
  dense_ = statics_ + statistics_ + 2 * plan_.age + 2 * matches_ + numbers_ + plan_.recency + plan_.length;
  if (items > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) refuse("too many items: " + std::to_string(items));
  if (plan_.half_lives_ms.size() != columns.matches.size()) refuse("there must be one half-life for each attribute shared with the history");
  for (double half_life : plan_.half_lives_ms)
    if (!(half_life > 0)) refuse("half-lives must be above 0, got " + std::to_string(half_life));
  for (int column : plan_.last_codes)
    if (column < 0 || column >= item_codes_) refuse("no item column " + std::to_string(column) + " to tell of the newest item");
  if (plan_.contexts < 0 || plan_.history_max < 1) refuse("history_max must be at least 1, got " + std::to_string(plan_.history_max));
  if (plan_.position_max < 0 || (plan_.position_max > 0 && (plan_.position_serving < 1 || plan_.position_serving > plan_.position_max)))
    refuse("the position at serving must be from 1 to " + std::to_string(plan_.position_max) + ", got " + std::to_string(plan_.position_serving));
  if ((!plan_.center.empty() && plan_.center.size() != static_cast<std::size_t>(dense_)) || plan_.scale.size() != plan_.center.size())
    refuse("center and scale must have one value for each of " + std::to_string(dense_) + " dense columns, got " + std::to_string(plan_.center.size()) +
           " and " + std::to_string(plan_.scale.size()));

  stride_ = static_cast<std::size_t>(2 + item_codes_ + matches_ + statics_ + statistics_ + numbers_);
  stride_ += stride_ % 2;  // registered_at stays aligned
  rows_ = AlignedBuffer<std::int32_t>((items + 1) * stride_);
  for (std::size_t i = 0; i <= items; ++i) {
    std::int32_t* row = rows_.data() + i * stride_;
    std::memcpy(row, columns.registered_at + i, sizeof(std::int64_t));
    row += 2;
    for (const auto* column : columns.codes) *row++ = column[i];
    for (const auto* column : columns.matches) *row++ = column[i];
    for (const auto* group : {&columns.statics, &columns.statistics, &columns.numbers})
      for (const auto* column : *group) *row++ = std::bit_cast<std::int32_t>(column[i]);
  }
}

void FeatureTable::check(const Requests& requests, std::size_t history_size, std::size_t candidates) const {
  const auto in_range = [&](const std::int32_t* from, std::size_t count, const char* what) {
    std::int32_t low = 0, high = -1;
    for (std::size_t i = 0; i < count; ++i) low = std::min(low, from[i]), high = std::max(high, from[i]);
    if (low < -1 || high >= static_cast<std::int64_t>(items_))
      refuse(std::string(what) + " must be positions from 0 to " + std::to_string(static_cast<std::int64_t>(items_) - 1) + ", or -1 for unknown, got " +
             std::to_string(low < -1 ? low : high));
  };
  for (std::size_t r = 0; r < requests.count; ++r) {
    if (requests.begins[r] < 0 || requests.ends[r] < requests.begins[r] || requests.ends[r] > static_cast<std::int64_t>(history_size))
      refuse("request " + std::to_string(r) + ": its history must lie within " + std::to_string(history_size) + " events, got " +
             std::to_string(requests.begins[r]) + " to " + std::to_string(requests.ends[r]));
    if (requests.splits[r + 1] < requests.splits[r]) refuse("candidate_splits must not fall, got " + std::to_string(requests.splits[r + 1]) + " after " + std::to_string(requests.splits[r]));
    const std::int64_t used = std::min<std::int64_t>(requests.ends[r] - requests.begins[r], plan_.history_max);
    in_range(requests.history_items + requests.ends[r] - used, static_cast<std::size_t>(used), "history items");
  }
  if (requests.splits[0] != 0 || requests.splits[requests.count] != static_cast<std::int64_t>(candidates))
    refuse("candidate_splits must go from 0 to " + std::to_string(candidates) + ", got " + std::to_string(requests.splits[0]) + " to " +
           std::to_string(requests.splits[requests.count]));
  in_range(requests.candidates, candidates, "candidates");
}

void FeatureTable::prepare(const Requests& requests, std::size_t request, Scratch& scratch) const {
  const std::int64_t length = requests.ends[request] - requests.begins[request];
  const std::size_t used = static_cast<std::size_t>(std::min<std::int64_t>(length, plan_.history_max));
  const std::int32_t* items = requests.history_items + requests.ends[request] - used;
  const std::int64_t* times = requests.history_times + requests.ends[request] - used;
  const std::int64_t now = requests.now[request];

  scratch.codes.clear();
  std::size_t known = used;
  while (known > 0 && items[known - 1] < 0) --known;
  const std::int32_t* newest = rows_.data() + (known ? static_cast<std::size_t>(items[known - 1]) : items_) * stride_ + 2;
  for (int column : plan_.last_codes) scratch.codes.push_back(newest[column]);
  for (int c = 0; c < plan_.contexts; ++c) scratch.codes.push_back(requests.contexts[request * static_cast<std::size_t>(plan_.contexts) + static_cast<std::size_t>(c)]);
  const std::int64_t hours = floor_div(now + plan_.utc_offset_ms, kHourMs), days = floor_div(hours, 24);
  if (plan_.hour) scratch.codes.push_back(now < 0 ? 0 : static_cast<std::int32_t>(1 + hours - 24 * days));
  if (plan_.weekday) scratch.codes.push_back(now < 0 ? 0 : static_cast<std::int32_t>(1 + (days + 3 + 7) % 7));  // 1970 began on a Thursday; 1 = Monday

  scratch.tail.clear();
  if (plan_.recency) {
    const std::int64_t last = used ? times[used - 1] : -1;
    scratch.tail.push_back(now < 0 || last < 0 ? kNaN : static_cast<float>(std::log1p(static_cast<double>(std::max<std::int64_t>(now - last, 0)) / 1000.0)));
  }
  if (plan_.length) scratch.tail.push_back(static_cast<float>(std::log1p(static_cast<double>(length))));

  scratch.shared.resize(static_cast<std::size_t>(matches_));
  scratch.weights.resize(std::max(scratch.weights.size(), used));
  for (int m = 0; m < matches_; ++m) {
    const double half_life = plan_.half_lives_ms[static_cast<std::size_t>(m)];
    if (m == 0 || half_life != plan_.half_lives_ms[static_cast<std::size_t>(m) - 1])
      for (std::size_t e = 0; e < used; ++e)
        scratch.weights[e] = now < 0 || times[e] < 0 ? 1.0 : std::exp2(-static_cast<double>(std::max<std::int64_t>(now - times[e], 0)) / half_life);
    SharedTable& table = scratch.shared[static_cast<std::size_t>(m)];
    table.clear(used);
    double total = 0;
    for (std::size_t e = 0; e < used; ++e) {
      if (items[e] < 0) continue;
      const std::int32_t code = rows_[static_cast<std::size_t>(items[e]) * stride_ + static_cast<std::size_t>(2 + item_codes_ + m)];
      if (code < 0) continue;
      const std::uint32_t slot = table.slot(code);
      table.codes[slot] = code;
      table.weights[slot] += scratch.weights[e];
      total += scratch.weights[e];
    }
    for (std::uint32_t s = 0; s <= table.mask; ++s)
      if (table.weights[s] > 0) table.shared[s] = {static_cast<float>(std::log1p(table.weights[s])), static_cast<float>(table.weights[s] / total)};
  }

  scratch.means.clear();
  for (int n = 0; n < numbers_; ++n) {
    double sum = 0;
    std::size_t count = 0;
    for (std::size_t e = 0; e < used; ++e) {
      if (items[e] < 0) continue;
      const float value =
          std::bit_cast<float>(rows_[static_cast<std::size_t>(items[e]) * stride_ + static_cast<std::size_t>(2 + item_codes_ + matches_ + statics_ + statistics_ + n)]);
      if (value == value) sum += static_cast<double>(value), ++count;
    }
    scratch.means.push_back(count ? sum / static_cast<double>(count) : std::numeric_limits<double>::quiet_NaN());
  }
}

void FeatureTable::fill(const Requests& requests, std::size_t request, const Scratch& scratch, std::int32_t* codes, float* dense) const {
  const auto width = [](int columns) { return static_cast<std::size_t>(columns); };
  const std::size_t first = static_cast<std::size_t>(requests.splits[request]), last = static_cast<std::size_t>(requests.splits[request + 1]);
  const auto row_of = [&](std::size_t i) {
    const std::int32_t item = requests.candidates[i];
    return rows_.data() + (item < 0 ? items_ : static_cast<std::size_t>(item)) * stride_;
  };
  const std::size_t row_bytes = stride_ * sizeof(std::int32_t);
  for (std::size_t i = first; i < last; ++i) {
    if (i + kPrefetchRows < last) {
      const char* ahead = reinterpret_cast<const char*>(row_of(i + kPrefetchRows));
      for (std::size_t b = 0; b < row_bytes; b += 64) __builtin_prefetch(ahead + b);
      __builtin_prefetch(ahead + row_bytes - 1);  // a row may begin late in a line
    }
    const std::int32_t* row = row_of(i);
    std::int64_t registered_at;
    std::memcpy(&registered_at, row, sizeof registered_at);
    row += 2;

    std::int32_t* code = codes + i * width(codes_);
    code = std::copy_n(row, item_codes_, code);
    code = std::copy(scratch.codes.begin(), scratch.codes.end(), code);
    if (plan_.position_max > 0) *code = requests.positions ? std::clamp(requests.positions[i], 0, plan_.position_max) : plan_.position_serving;

    float* const out = dense + i * width(dense_);
    float* x = out;
    const std::int32_t* match = row + item_codes_;
    const std::int32_t* held = match + matches_;
    std::memcpy(x, held, width(statics_ + statistics_) * sizeof(float));
    x += statics_;
    if (requests.statistics) std::copy_n(requests.statistics + i * width(statistics_), statistics_, x);
    x += statistics_;
    held += statics_ + statistics_;
    if (plan_.age) {
      const bool known = registered_at >= 0 && requests.now[request] >= 0;
      *x++ = known ? std::log1p(static_cast<float>(static_cast<double>(std::max<std::int64_t>(requests.now[request] - registered_at, 0)) / kDayMs)) : kNaN;
      *x++ = known ? 0.0f : 1.0f;
    }
    for (int m = 0; m < matches_; ++m) {
      const SharedTable& table = scratch.shared[width(m)];
      const Shared& shared = table.shared[table.slot(match[m])];  // code -1 ends at an empty slot
      *x++ = shared.log_count;
      *x++ = shared.share;
    }
    for (int n = 0; n < numbers_; ++n) *x++ = static_cast<float>(static_cast<double>(std::bit_cast<float>(held[n])) - scratch.means[width(n)]);
    std::copy(scratch.tail.begin(), scratch.tail.end(), x);
    for (std::size_t d = 0; d < plan_.center.size(); ++d) {
      const float value = (out[d] - plan_.center[d]) * plan_.scale[d];
      out[d] = value == value ? std::min(std::max(value, -kLimit), kLimit) : 0.0f;
    }
  }
}

void FeatureTable::gather(const Requests& requests, std::int32_t* codes, float* dense, int threads) const {
  parallel_for(requests.count, 64, threads, [&](std::size_t begin, std::size_t end, int) {
    thread_local Scratch scratch;
    for (std::size_t r = begin; r < end; ++r) {
      prepare(requests, r, scratch);
      fill(requests, r, scratch, codes, dense);
    }
  });
}

}  // namespace aitems::batch
