#include "rerank/diversity.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "simd/kernels.hpp"
#include "simd/rerank_kernels.hpp"

namespace aitems {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr float kSmallestNorm = 1e-30f;

// Cosines of candidates; norms are taken when a row is first needed, because most rows never are.
class Cosines {
 public:
  Cosines(const Vectors& vectors, std::size_t n, Isa isa)
      : vectors_(vectors), dot_(kernels(isa).rerank->dot), inverse_norm_(n, -1.0f) {}

  bool missing(std::size_t i) { return inverse_norm(i) == 0; }

  double operator()(std::size_t i, std::size_t j) {
    return static_cast<double>(dot_(row(i), row(j), vectors_.dim)) * inverse_norm(i) * inverse_norm(j);
  }

 private:
  const float* row(std::size_t i) const { return vectors_.data + static_cast<std::size_t>(vectors_.rows[i]) * vectors_.dim; }

  float inverse_norm(std::size_t i) {
    float& known = inverse_norm_[i];
    if (known < 0) {
      const bool there = !vectors_.present || vectors_.present[vectors_.rows[i]];
      const float square = there ? dot_(row(i), row(i), vectors_.dim) : 0;
      known = square > kSmallestNorm && std::isfinite(square) ? 1 / std::sqrt(square) : 0;
    }
    return known;
  }

  const Vectors& vectors_;
  float (*const dot_)(const float*, const float*, std::size_t);
  std::vector<float> inverse_norm_;
};

// Both objectives only fall while more is chosen, so what a row was worth once is a bound on what it is worth now: a row is
// brought up to date only when its bound leads. The result is that of looking at every row in every step.
// `update(i, from, chosen)` takes in chosen[from..] and returns the worth of row i, -infinity = never to be chosen.
template <class Update>
std::vector<std::int32_t> lazy_greedy(std::vector<double> bound, std::size_t k, const Update& update) {
  constexpr std::uint32_t kNever = static_cast<std::uint32_t>(-1);
  std::vector<std::uint32_t> heap(bound.size()), upto(bound.size(), kNever);
  std::iota(heap.begin(), heap.end(), 0u);
  const auto worse = [&](std::uint32_t a, std::uint32_t b) { return bound[a] < bound[b] || (bound[a] == bound[b] && a > b); };
  std::make_heap(heap.begin(), heap.end(), worse);
  std::vector<std::int32_t> chosen;
  chosen.reserve(k);
  while (chosen.size() < k && !heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), worse);
    const std::uint32_t i = heap.back();
    if (upto[i] == chosen.size()) {
      heap.pop_back();
      chosen.push_back(static_cast<std::int32_t>(i));
      continue;
    }
    bound[i] = update(i, upto[i] == kNever ? 0 : upto[i], chosen);
    upto[i] = static_cast<std::uint32_t>(chosen.size());
    if (bound[i] == -kInfinity)
      heap.pop_back();
    else
      std::push_heap(heap.begin(), heap.end(), worse);
  }
  return chosen;
}

// The same without a bound to rely on: rows that leave the window give back what they took.
std::vector<std::int32_t> dpp_windowed(const double* relevance, std::size_t n, Cosines& cosine, std::size_t k, double strength,
                                       double missing_d2, std::size_t window, double floor) {
  const std::size_t width = window - 1;  // chosen rows that a new one is compared with
  std::vector<double> columns(width * n), d2(n, 1), triangle(width * width);  // columns[t * n + i], triangle[a * width + t]
  std::vector<std::uint8_t> taken(n, 0);
  std::vector<std::int32_t> chosen;
  std::size_t held = 0;
  for (std::size_t i = 0; i < n; ++i)
    if (cosine.missing(i)) d2[i] = missing_d2;
  while (chosen.size() < k) {
    double best = -kInfinity;
    std::size_t j = n;
    for (std::size_t i = 0; i < n; ++i) {
      if (taken[i] || d2[i] < floor) continue;
      const double worth = (1 - strength) * relevance[i] + strength * std::log(d2[i]);
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
        const double length = std::hypot(a, b), cosine_ = a / length, sine = b / length;
        double* const column = columns.data() + t * n;
        for (std::size_t i = 0; i < n; ++i) {
          const double x = column[i], y = first[i];
          column[i] = cosine_ * x + sine * y;
          first[i] = cosine_ * y - sine * x;
        }
        for (std::size_t r = t; r < held; ++r) {
          double& x = triangle[r * width + t];
          double& y = triangle[r * width];
          const double old = x;
          x = cosine_ * x + sine * y;
          y = cosine_ * y - sine * old;
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
    const bool missing = cosine.missing(j);
    for (std::size_t i = 0; i < n; ++i) {
      double rest = 0;
      if (!taken[i] && !missing && !cosine.missing(i)) {
        rest = cosine(i, j);
        for (std::size_t t = 0; t < held; ++t) rest -= columns[t * n + j] * columns[t * n + i];
        rest /= root;
      }
      column[i] = rest;
      d2[i] -= rest * rest;
    }
    for (std::size_t t = 0; t < held; ++t) triangle[held * width + t] = columns[t * n + j];
    triangle[held * width + held] = root;
    ++held;
  }
  return chosen;
}

}  // namespace

std::vector<std::int32_t> mmr(const double* relevance, std::size_t n, const Vectors& vectors, std::size_t k, double strength,
                              double missing_similarity, Isa isa) {
  Cosines cosine(vectors, n, isa);
  std::vector<double> bound(n), closest(n, -1);
  for (std::size_t i = 0; i < n; ++i) bound[i] = (1 - strength) * relevance[i] + strength;
  return lazy_greedy(std::move(bound), k, [&](std::size_t i, std::size_t from, const std::vector<std::int32_t>& chosen) {
    for (std::size_t t = from; t < chosen.size(); ++t) {
      const auto j = static_cast<std::size_t>(chosen[t]);
      closest[i] = std::max(closest[i], cosine.missing(i) || cosine.missing(j) ? missing_similarity : cosine(i, j));
    }
    return (1 - strength) * relevance[i] - strength * closest[i];
  });
}

std::vector<std::int32_t> dpp(const double* relevance, std::size_t n, const Vectors& vectors, std::size_t k, double strength,
                              double missing_similarity, std::size_t window, double floor, Isa isa) {
  Cosines cosine(vectors, n, isa);
  const double missing_d2 = 1 - missing_similarity;
  k = std::min(k, n);
  if (window < k) return dpp_windowed(relevance, n, cosine, k, strength, missing_d2, window, floor);
  // factor[i * k + t]: row i of the Cholesky factor at the t-th chosen row, as far as row i was brought up to date
  const auto factor = std::make_unique_for_overwrite<double[]>(n * k);
  std::vector<double> bound(n), d2(n, 1);
  for (std::size_t i = 0; i < n; ++i) bound[i] = (1 - strength) * relevance[i];
  return lazy_greedy(std::move(bound), k, [&](std::size_t i, std::size_t from, const std::vector<std::int32_t>& chosen) {
    double* const own = factor.get() + i * k;
    if (cosine.missing(i)) {
      d2[i] = missing_d2;
      std::fill(own + from, own + chosen.size(), 0.0);
    }
    for (std::size_t t = from; t < chosen.size() && !cosine.missing(i) && d2[i] >= floor; ++t) {
      const auto j = static_cast<std::size_t>(chosen[t]);
      double rest = 0;
      if (!cosine.missing(j)) {
        const double* const other = factor.get() + j * k;
        rest = cosine(i, j);
        for (std::size_t s = 0; s < t; ++s) rest -= own[s] * other[s];
        rest /= std::sqrt(d2[j]);
      }
      own[t] = rest;
      d2[i] -= rest * rest;
    }
    return d2[i] >= floor ? (1 - strength) * relevance[i] + strength * std::log(d2[i]) : -kInfinity;
  });
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
