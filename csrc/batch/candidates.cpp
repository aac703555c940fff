#include "batch/candidates.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "base/radix_sort.hpp"

namespace aitems::batch {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr double kRankOffset = 60;

// Numbers distinct items from 0 on. Open addressing, at most half full; memory is kept between rows.
class Numbering {
 public:
  void clear(std::size_t most) {
    const std::size_t size = std::bit_ceil(2 * most + 2);
    shift_ = 64 - static_cast<unsigned>(std::countr_zero(size));
    mask_ = size - 1;
    if (slots_.size() < size) slots_.resize(size);
    std::fill_n(slots_.begin(), size, Slot{-1, 0});
    items_.clear();
  }

  std::uint32_t add(std::int32_t item) {
    Slot& slot = slots_[place(item)];
    if (slot.item < 0) {
      slot = {item, static_cast<std::uint32_t>(items_.size())};
      items_.push_back(item);
    }
    return slot.number;
  }

  bool has(std::int32_t item) const { return item >= 0 && slots_[place(item)].item == item; }
  const std::vector<std::int32_t>& items() const { return items_; }

 private:
  struct Slot {
    std::int32_t item;
    std::uint32_t number;
  };

  std::size_t place(std::int32_t item) const {
    std::size_t at = static_cast<std::size_t>(static_cast<std::uint32_t>(item) * 0x9E3779B97F4A7C15u >> shift_);
    while (slots_[at].item >= 0 && slots_[at].item != item) at = (at + 1) & mask_;
    return at;
  }

  std::vector<Slot> slots_;
  std::vector<std::int32_t> items_;
  std::size_t mask_ = 0;
  unsigned shift_ = 63;
};

void read(Numbering& seen, const Lists& histories, std::size_t row) {
  const std::int64_t begin = histories.splits[row], end = histories.splits[row + 1];
  seen.clear(static_cast<std::size_t>(end - begin));
  for (std::int64_t i = begin; i < end; ++i) seen.add(histories.items[i]);
}

void fill_up(std::size_t from, Found out) {
  std::fill(out.items + from, out.items + out.width, -1);
  std::fill(out.scores + from, out.scores + out.width, kNothing);
}

// Puts numbers of items, keyed by `falling_key`, in order: by falling score, the lower item first.
void best_first(std::vector<Keyed>& order, std::vector<Keyed>& spare, const std::vector<std::int32_t>& items) {
  radix_sort<4>(order, spare);
  for (auto begin = order.begin(); begin != order.end();) {
    const auto end = std::find_if(begin + 1, order.end(), [&](const Keyed& next) { return next.key != begin->key; });
    if (end - begin > 1) std::sort(begin, end, [&](const Keyed& a, const Keyed& b) { return items[a.value] < items[b.value]; });
    begin = end;
  }
}

}  // namespace

void contained(std::size_t rows, const Lists& lists, const Lists& histories, std::uint8_t* out) {
  thread_local Numbering scratch;
  Numbering& seen = scratch;  // looked up once
  for (std::size_t row = 0; row < rows; ++row) {
    read(seen, histories, row);
    for (std::int64_t i = lists.splits[row]; i < lists.splits[row + 1]; ++i) out[i] = seen.has(lists.items[i]);
  }
}

void without_seen(std::size_t rows, const std::int32_t* items, const float* scores, std::size_t width, std::size_t stride, const Lists& histories, Found out) {
  thread_local Numbering scratch;
  Numbering& seen = scratch;  // looked up once
  for (std::size_t row = 0; row < rows; ++row, items += stride, scores += stride, out.items += out.width, out.scores += out.width) {
    if (histories.items) read(seen, histories, row);
    std::size_t kept = 0;
    for (std::size_t i = 0; i < width && kept < out.width; ++i) {
      if (items[i] < 0 || (histories.items && seen.has(items[i]))) continue;
      out.items[kept] = items[i];
      out.scores[kept++] = scores[i];
    }
    fill_up(kept, out);
  }
}

void similar_items(std::size_t rows, const Lists& histories, const float* event_weights, const Neighbours& similar, bool exclude_seen,
                   const std::uint8_t* allowed, Found out) {
  thread_local struct {
    Numbering found, seen;
    std::vector<double> sums;
    std::vector<Keyed> order, spare;
  } scratch;
  auto& [found, seen, sums, order, spare] = scratch;
  for (std::size_t row = 0; row < rows; ++row, out.items += out.width, out.scores += out.width) {
    const std::int64_t begin = histories.splits[row], end = histories.splits[row + 1];
    std::int64_t terms = 0;
    for (std::int64_t e = begin; e < end; ++e) terms += similar.splits[histories.items[e] + 1] - similar.splits[histories.items[e]];
    found.clear(static_cast<std::size_t>(terms));
    sums.clear();
    for (std::int64_t e = begin; e < end; ++e) {
      for (std::int64_t t = similar.splits[histories.items[e]]; t < similar.splits[histories.items[e] + 1]; ++t) {
        const std::uint32_t number = found.add(similar.items[t]);
        if (number == sums.size()) sums.push_back(0);
        sums[number] += static_cast<double>(event_weights[e] * similar.weights[t]);
      }
    }
    if (exclude_seen) read(seen, histories, row);
    order.clear();
    for (std::uint32_t number = 0; number < sums.size(); ++number) {
      const std::int32_t item = found.items()[number];
      const auto score = static_cast<float>(sums[number]);
      if ((exclude_seen && seen.has(item)) || (allowed && !allowed[item]) || !(score > kNothing)) continue;
      order.push_back({falling_key(score), number});
    }
    best_first(order, spare, found.items());
    const std::size_t kept = std::min(order.size(), out.width);
    for (std::size_t i = 0; i < kept; ++i) {
      out.items[i] = found.items()[order[i].value];
      out.scores[i] = static_cast<float>(sums[order[i].value]);
    }
    fill_up(kept, out);
  }
}

void merge(std::size_t rows, const Source* sources, std::size_t count, bool reciprocal, std::size_t budget, Merged out) {
  thread_local struct {
    Numbering found;
    std::vector<double> fused;
    std::vector<std::int32_t> ranks;
    std::vector<float> scores;
    std::vector<std::uint8_t> reserved;
    std::vector<Keyed> order, spare;
  } scratch;
  auto& [found, fused, ranks, scores, reserved, order, spare] = scratch;
  std::size_t most = 0, written = 0;
  for (std::size_t s = 0; s < count; ++s) most += sources[s].width;
  out.splits[0] = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    found.clear(most);
    fused.assign(most, 0);
    reserved.assign(most, 0);
    ranks.assign(most * count, 0);
    scores.assign(most * count, kNothing);
    for (std::size_t s = 0; s < count; ++s) {
      const Source& source = sources[s];
      const std::int32_t* const items = source.items + row * source.width;
      const float* const own = source.scores + row * source.width;
      const auto there = static_cast<double>(source.width - static_cast<std::size_t>(std::count_if(items, items + source.width, [](std::int32_t i) { return i < 0; })));
      std::int32_t rank = 0;
      for (std::size_t i = 0; i < source.width; ++i) {
        if (items[i] < 0) continue;
        ++rank;
        const std::uint32_t number = found.add(items[i]);
        fused[number] += source.weight * (reciprocal ? 1 / (kRankOffset + rank) : 1 - (rank - 1) / there);
        reserved[number] |= rank <= source.quota;
        ranks[number * count + s] = rank;
        scores[number * count + s] = own[i];
      }
    }
    order.clear();
    for (std::uint32_t number = 0; number < found.items().size(); ++number)
      order.push_back({falling_key(static_cast<float>(fused[number])), number});
    best_first(order, spare, found.items());
    const auto spared = static_cast<std::size_t>(std::count(reserved.begin(), reserved.end(), 1));
    std::size_t others = budget - std::min(budget, spared);
    for (const Keyed& next : order) {
      const std::size_t number = next.value;
      if (!reserved[number]) {
        if (others == 0) continue;
        --others;
      }
      out.items[written] = found.items()[number];
      out.scores[written] = static_cast<float>(fused[number]);
      std::int64_t bits = 0;
      for (std::size_t s = 0; s < count; ++s) {
        const std::int32_t rank = ranks[number * count + s];
        bits |= std::int64_t{rank > 0} << s;
        out.ranks[written * count + s] = rank;
        out.source_scores[written * count + s] = scores[number * count + s];
      }
      out.source_bits[written++] = bits;
    }
    out.splits[row + 1] = static_cast<std::int64_t>(written);
  }
}

}  // namespace aitems::batch
