#include "rerank/diversity.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <new>

#include "base/aligned_buffer.hpp"
#include "simd/kernels.hpp"
#include "simd/rerank_kernels.hpp"

namespace aitems {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr float kSmallestSquare = 1e-30f;
constexpr std::size_t kPrefetchRows = 256;  // of a catalogue's vectors, that lie far apart; more would push each other out of the cache

std::size_t groups_of(std::size_t count) { return (count + kRerankGroup - 1) / kRerankGroup; }

// Candidates' vectors at unit length, in aligned rows of whole groups with `extra` zeros behind them. A row is made when it is first
// needed, because most never are.
class UnitRows {
 public:
  UnitRows(const Vectors& vectors, std::size_t n, std::size_t extra, Isa isa)
      : vectors_(vectors),
        dot_(kernels(isa).rerank->dot),
        vector_groups_(groups_of(vectors.dim)),
        stride_((vector_groups_ + groups_of(extra)) * kRerankGroup),
        state_(n, kUnknown),
        rows_(static_cast<float*>(::operator new(n * stride_ * sizeof(float), kAlignment))) {
    for (std::size_t i = 0; i < std::min(n, kPrefetchRows); ++i) {
      const char* const row = reinterpret_cast<const char*>(source(i));
      for (std::size_t b = 0; b < vectors_.dim * sizeof(float); b += 64) __builtin_prefetch(row + b);
    }
  }

  // The part behind the vector starts here.
  std::size_t width() const { return vector_groups_ * kRerankGroup; }
  std::size_t stride() const { return stride_; }

  bool missing(std::size_t i) {
    row(i);
    return state_[i] == kMissing;
  }

  float* row(std::size_t i) {
    float* const out = rows_.get() + i * stride_;
    if (state_[i] != kUnknown) return out;
    const float* const in = source(i);
    std::copy(in, in + vectors_.dim, out);
    std::fill(out + vectors_.dim, out + stride_, 0.0f);
    const float square = dot_(out, out, vector_groups_);
    const bool there = (!vectors_.present || vectors_.present[vectors_.rows[i]]) && square > kSmallestSquare && std::isfinite(square);
    const float scale = there ? 1 / std::sqrt(square) : 0;
    for (std::size_t d = 0; d < vectors_.dim; ++d) out[d] = there ? out[d] * scale : 0;
    state_[i] = there ? kThere : kMissing;
    return out;
  }

  double cosine(std::size_t i, std::size_t j) { return static_cast<double>(dot_(row(i), row(j), vector_groups_)); }

 private:
  enum : std::uint8_t { kUnknown, kThere, kMissing };
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kAlignment); }
  };
  const float* source(std::size_t i) const { return vectors_.data + static_cast<std::size_t>(vectors_.rows[i]) * vectors_.dim; }

  const Vectors& vectors_;
  float (*const dot_)(const float*, const float*, std::size_t);
  const std::size_t vector_groups_, stride_;
  std::vector<std::uint8_t> state_;
  std::unique_ptr<float, Free> rows_;
};

// Both objectives only fall while more is chosen, so what a row was worth once is a bound on what it is worth now: a row is
// brought up to date only when its bound beats the best row so far. The result is that of looking at every row in every step.
// (A scan of the bounds costs less than keeping them in a heap, where many rows are brought up to date.)
// `update(i, upto, chosen, bound, best)` takes in chosen[upto..], advancing upto, and returns what row i is worth (-infinity = never to
// be chosen); or stops early, once the bound has fallen below `best`. `give_up(chosen)` ends it with the rows so far.
template <class Update, class GiveUp>
std::vector<std::int32_t> lazy_greedy(std::vector<double> bound, std::size_t k, const Update& update, const GiveUp& give_up) {
  std::vector<std::size_t> upto(bound.size(), 0);
  std::vector<std::uint8_t> fresh(bound.size(), 0);  // bound is what the row was worth when chosen[..upto] were chosen
  std::vector<std::int32_t> chosen;
  chosen.reserve(k);
  const auto refresh = [&](std::size_t i, double best) {
    if (fresh[i] && upto[i] == chosen.size()) return;
    bound[i] = update(i, upto[i], chosen, bound[i], best);
    fresh[i] = 1;
  };
  while (chosen.size() < std::min(k, bound.size()) && !give_up(chosen)) {
    auto best = static_cast<std::size_t>(std::max_element(bound.begin(), bound.end()) - bound.begin());
    refresh(best, -kInfinity);
    for (std::size_t i = 0; i < bound.size(); ++i) {
      if (bound[i] < bound[best] || (bound[i] == bound[best] && i >= best)) continue;
      refresh(i, bound[best]);
      if (bound[i] > bound[best] || (bound[i] == bound[best] && i < best)) best = i;
    }
    if (bound[best] == -kInfinity) break;
    chosen.push_back(static_cast<std::int32_t>(best));
    bound[best] = -kInfinity;
  }
  return chosen;
}

// DPP without a bound to rely on: every row in every step; rows that leave the window give back what they took.
std::vector<std::int32_t> dpp_windowed(const double* relevance, std::size_t n, UnitRows& rows, std::size_t k, double strength,
                                       double missing_d2, std::size_t window, double floor, Isa isa) {
  const RerankKernels& kernel = *kernels(isa).rerank;
  const std::size_t width = window - 1;  // chosen rows that a new one is compared with
  std::vector<double> columns(width * n), d2(n, 1), triangle(width * width);  // columns[t * n + i], triangle[a * width + t]
  std::vector<std::uint8_t> taken(n, 0);
  std::vector<std::int32_t> chosen;
  std::size_t held = 0;
  for (std::size_t i = 0; i < n; ++i)
    if (rows.missing(i)) d2[i] = missing_d2;
  while (chosen.size() < k) {
    double best = -kInfinity;
    std::size_t j = n;
    for (std::size_t i = 0; i < n; ++i) {
      if (taken[i] || d2[i] < floor) continue;
      const double relevant = (1 - strength) * relevance[i];
      if (relevant + strength * (d2[i] - 1) <= best) continue;  // log(x) <= x - 1 spares most logarithms
      const double worth = relevant + strength * std::log(d2[i]);
      if (worth > best) best = worth, j = i;
    }
    if (j == n) break;
    taken[j] = 1;
    chosen.push_back(static_cast<std::int32_t>(j));
    if (width == 0) continue;
    if (held == width) {
      // drop the oldest row of the factor: what remains is brought back to a triangle by plane rotations
      double* const first = columns.data();
      for (std::size_t t = 1; t < held; ++t) {
        const double a = triangle[t * width + t], b = triangle[t * width];
        const double length = std::hypot(a, b), turn = a / length, sine = b / length;
        kernel.rotate(turn, sine, columns.data() + t * n, first, n);
        for (std::size_t r = t; r < held; ++r) {
          double& x = triangle[r * width + t];
          double& y = triangle[r * width];
          const double old = x;
          x = turn * x + sine * y;
          y = turn * y - sine * old;
        }
      }
      for (std::size_t i = 0; i < n; ++i) d2[i] += first[i] * first[i];
      std::copy(columns.begin() + static_cast<std::ptrdiff_t>(n), columns.end(), columns.begin());
      for (std::size_t r = 1; r < held; ++r)
        for (std::size_t t = 1; t <= r; ++t) triangle[(r - 1) * width + t - 1] = triangle[r * width + t];
      --held;
    }
    double* const column = columns.data() + held * n;
    const double root = std::sqrt(d2[j]);
    const bool missing = rows.missing(j);
    for (std::size_t i = 0; i < n; ++i) column[i] = taken[i] || missing || rows.missing(i) ? 0 : rows.cosine(i, j) / root;
    if (!missing)
      for (std::size_t t = 0; t < held; ++t) kernel.subtract(columns[t * n + j] / root, columns.data() + t * n, column, n);
    for (std::size_t i = 0; i < n; ++i) d2[i] -= column[i] * column[i];
    for (std::size_t t = 0; t < held; ++t) triangle[held * width + t] = columns[t * n + j];
    triangle[held * width + held] = root;
    ++held;
  }
  return chosen;
}

}  // namespace

std::vector<std::int32_t> mmr(const double* relevance, std::size_t n, const Vectors& vectors, std::size_t k, double strength,
                              double missing_similarity, Isa isa) {
  UnitRows rows(vectors, n, 0, isa);
  std::vector<double> bound(n), closest(n, -1);
  for (std::size_t i = 0; i < n; ++i) bound[i] = (1 - strength) * relevance[i] + strength;
  return lazy_greedy(std::move(bound), k,
                     [&](std::size_t i, std::size_t& upto, const std::vector<std::int32_t>& chosen, double, double best) {
    const double own = (1 - strength) * relevance[i];
    double worth = own - strength * closest[i];
    for (; upto < chosen.size() && worth >= best; ++upto) {
      const auto j = static_cast<std::size_t>(chosen[upto]);
      closest[i] = std::max(closest[i], rows.missing(i) || rows.missing(j) ? missing_similarity : rows.cosine(i, j));
      worth = own - strength * closest[i];
    }
    return worth;
  }, [](const std::vector<std::int32_t>&) { return false; });
}

std::vector<std::int32_t> dpp(const double* relevance, std::size_t n, const Vectors& vectors, std::size_t k, double strength,
                              double missing_similarity, std::size_t window, double floor, Isa isa) {
  const double missing_d2 = 1 - missing_similarity;
  k = std::min(k, n);
  const bool windowed = window < k;
  // Behind its unit vector a row has its part of the Cholesky factor: its coordinates in the directions of the chosen rows, as far as
  // it was brought up to date. What a chosen row says to the others is (vector, -coordinates): one product gives both parts.
  UnitRows rows(vectors, n, windowed ? 0 : k, isa);
  if (windowed) return dpp_windowed(relevance, n, rows, k, strength, missing_d2, window, floor, isa);
  // Where relevance hardly differs, bounds spare nothing, and columns over all rows are faster than rows: seen from the first steps.
  constexpr std::size_t kTrial = 12;
  std::size_t products = 0;
  const auto in_vain = [&](const std::vector<std::int32_t>& chosen) {
    return chosen.size() == kTrial && k > 3 * kTrial && products > n * kTrial / 4;
  };
  const auto dot = kernels(isa).rerank->dot;
  const std::size_t width = rows.width(), stride = rows.stride();
  AlignedBuffer<float> said(k * stride);
  std::vector<double> bound(n), d2(n, 1), inverse_root;  // 1 / d of each chosen row, 0 = it has no vector
  inverse_root.reserve(k);
  for (std::size_t i = 0; i < n; ++i) bound[i] = (1 - strength) * relevance[i];
  const std::vector<std::int32_t> order = lazy_greedy(std::move(bound), k,
                     [&](std::size_t i, std::size_t& upto, const std::vector<std::int32_t>& chosen, double last, double best) {
    if (inverse_root.size() < chosen.size()) {
      const auto j = static_cast<std::size_t>(chosen.back());
      const float* const row = rows.row(j);
      float* const out = said.data() + inverse_root.size() * stride;
      std::copy(row, row + width, out);
      std::transform(row + width, row + stride, out + width, std::negate<>());
      inverse_root.push_back(rows.missing(j) ? 0 : 1 / std::sqrt(d2[j]));
    }
    float* const row = rows.row(i);
    const bool missing = rows.missing(i);
    double left = missing ? missing_d2 : d2[i];
    std::size_t t = missing ? chosen.size() : upto;
    const double before = left, gain = strength / left;
    double above = last;  // log(x / y) <= x / y - 1 gives a bound without a logarithm
    for (; t < chosen.size() && left >= floor && above >= best; ++t) {
      const std::size_t groups = width / kRerankGroup + groups_of(t);
      const double rest = inverse_root[t] * static_cast<double>(dot(row, said.data() + t * stride, groups));
      row[width + t] = static_cast<float>(rest);
      left -= rest * rest;
      above = last + gain * (left - before);
    }
    products += t - upto;
    d2[i] = left;
    upto = t;
    if (!(left >= floor)) return -kInfinity;
    return above < best ? above : (1 - strength) * relevance[i] + strength * std::log(left);
  }, in_vain);
  return in_vain(order) ? dpp_windowed(relevance, n, rows, k, strength, missing_d2, k + 1, floor, isa) : order;
}

std::vector<std::int32_t> calibrated(const double* relevance, const std::int32_t* groups, std::size_t n, const double* target,
                                     std::size_t num_groups, std::size_t k, double strength) {
  constexpr double kMix = 0.01;
  // rows of each group (the last: no group) in falling relevance; the best of a group is always its next
  std::vector<std::vector<std::int32_t>> rows(num_groups + 1);
  for (std::size_t i = 0; i < n; ++i)
    rows[groups[i] < 0 ? num_groups : static_cast<std::size_t>(groups[i])].push_back(static_cast<std::int32_t>(i));
  std::vector<std::size_t> shown(num_groups + 1, 0);
  const auto term = [&](std::size_t g, std::size_t count, std::size_t size) {
    if (target[g] <= 0) return 0.0;
    const double share = static_cast<double>(count) / static_cast<double>(size);
    return target[g] * std::log(target[g] / ((1 - kMix) * share + kMix * target[g]));
  };
  std::vector<std::int32_t> chosen;
  chosen.reserve(std::min(k, n));
  while (chosen.size() < std::min(k, n)) {
    const std::size_t size = chosen.size() + 1;
    double divergence = 0;  // of a page with one more item that belongs to no group
    for (std::size_t g = 0; g < num_groups; ++g) divergence += term(g, shown[g], size);
    double best = -kInfinity;
    std::size_t from = num_groups + 1;
    for (std::size_t g = 0; g <= num_groups; ++g) {
      if (shown[g] == rows[g].size()) continue;
      const double change = g == num_groups ? 0 : term(g, shown[g] + 1, size) - term(g, shown[g], size);
      const std::int32_t row = rows[g][shown[g]];
      const double worth = (1 - strength) * relevance[row] - strength * (divergence + change);
      if (worth > best || (worth == best && row < rows[from][shown[from]])) best = worth, from = g;
    }
    chosen.push_back(rows[from][shown[from]++]);
  }
  return chosen;
}

}  // namespace aitems
