// Features of candidates: one gather for training and for serving, over ragged histories and ragged candidates. What depends on
// the user alone is computed once a request; a candidate costs one copy from its item's packed row, a look-up in a small hash
// table for each attribute shared with the history, and one multiply-add a dense column. It knows no names and no vocabularies:
// codes come ready (python/aitems_engine/ranking/features.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/aligned_buffer.hpp"

namespace aitems::batch {

// Standardised values beyond this are cut off: one absurd price must not saturate a network.
constexpr float kLimit = 10.0f;

// What is computed, in the order of the output.
//   codes: item columns | those of the newest known item of the history | contexts | hour? | weekday? | position?
//   dense: static columns | statistics | age, age_missing? | log_count, share a match | difference a number | recency? | length?
struct FeaturePlan {
  std::vector<double> half_lives_ms;  // one a match column
  std::vector<int> last_codes;        // item columns that are also told of the newest item of the history
  int contexts = 0;
  bool hour = false, weekday = false;
  std::int64_t utc_offset_ms = 0;
  std::int32_t position_max = 0;  // 0: no position
  std::int32_t position_serving = 1;
  bool age = false, recency = false, length = false;
  int history_max = 100;  // so many newest events count
  // One a dense column: (x - center) * scale, and 0 where x is NaN. Both empty: x itself, NaN included, to fit them.
  std::vector<float> center, scale;
};

// Columns over the items and, in the last row, what stands for an unknown item.
struct ItemColumns {
  std::vector<const std::int32_t*> codes;
  std::vector<const std::int32_t*> matches;  // -1 unknown
  std::vector<const float*> statics;         // NaN unknown
  std::vector<const float*> statistics;
  std::vector<const float*> numbers;  // compared with their mean over the history; NaN unknown
  const std::int64_t* registered_at;  // ms since 1970, -1 unknown
};

struct Requests {
  std::size_t count;
  const std::int32_t* history_items;  // -1 unknown
  const std::int64_t* history_times;  // ms, -1 unknown; not falling within a history
  const std::int64_t* begins;         // request r: events [begins[r], ends[r])
  const std::int64_t* ends;
  const std::int64_t* now;        // ms, -1 unknown
  const std::int32_t* contexts;   // (count, plan.contexts)
  const std::int32_t* candidates; // -1 unknown
  const std::int64_t* splits;     // (count + 1)
  const float* statistics;        // (splits[count], statistics) in place of the items' own, or null
  const std::int32_t* positions;  // (splits[count]) from 1, or null: position_serving
};

class FeatureTable {
 public:
  // Copies the columns; throws Error where they do not fit the plan.
  FeatureTable(FeaturePlan plan, std::size_t items, const ItemColumns& columns);

  std::size_t items() const noexcept { return items_; }
  int codes() const noexcept { return codes_; }
  int dense() const noexcept { return dense_; }
  int contexts() const noexcept { return plan_.contexts; }
  int statistics() const noexcept { return statistics_; }
  std::size_t bytes() const noexcept { return rows_.bytes(); }

  // Throws Error unless items are -1 or in range and ranges lie within `history_size` events and `candidates` rows.
  void check(const Requests& requests, std::size_t history_size, std::size_t candidates) const;

  // Fills codes (splits[count], codes()) and dense (splits[count], dense()) of checked requests. No allocation once each thread's
  // scratch has grown to its longest history. Safe from many threads.
  void gather(const Requests& requests, std::int32_t* codes, float* dense, int threads) const;

 private:
  struct Scratch;
  void prepare(const Requests& requests, std::size_t request, Scratch& scratch) const;
  void fill(const Requests& requests, std::size_t request, const Scratch& scratch, std::int32_t* codes, float* dense) const;

  FeaturePlan plan_;
  std::size_t items_;
  int item_codes_, matches_, statics_, statistics_, numbers_;
  int codes_, dense_;
  // one row an item: registered_at (2 words) | codes | matches | statics | statistics | numbers
  std::size_t stride_;
  AlignedBuffer<std::int32_t> rows_;
};

}  // namespace aitems::batch
