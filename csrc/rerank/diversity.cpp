#include "rerank/diversity.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/aligned_buffer.hpp"
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

  const float* row(std::size_t i) const { return vectors_.data + static_cast<std::size_t>(vectors_.rows[i]) * vectors_.dim; }

  // 0 where the vector is missing
  float inverse_norm(std::size_t i) {
    float& known = inverse_norm_[i];
    if (known < 0) {
      const bool there = !vectors_.present || vectors_.present[vectors_.rows[i]];
      const float square = there ? dot_(row(i), row(i), vectors_.dim) : 0;
      known = square > kSmallestNorm && std::isfinite(square) ? 1 / std::sqrt(square) : 0;
    }
    return known;
  }

 private:
  const Vectors& vectors_;
  float (*const dot_)(const float*, const float*, std::size_t);
  std::vector<float> inverse_norm_;
};

// Both objectives only fall while more is chosen, so what a row was worth once is a bound on what it is worth now: a row is
// brought up to date only when its bound beats the best row so far. The result is that of looking at every row in every step.
// (A scan of the bounds costs less than keeping them in a heap, where many rows are brought up to date.)
// `update(i, from, chosen, bound, best)` takes in chosen[from..] and returns the worth of row i, -infinity = never to be chosen; or,
// knowing its last bound, a new bound below `best`, where that is cheaper than the worth.
template <class Update>
std::vector<std::int32_t> lazy_greedy(std::vector<double> bound, std::size_t k, const Update& update) {
  constexpr std::size_t kNever = static_cast<std::size_t>(-1);
  std::vector<std::size_t> upto(bound.size(), kNever);
  std::vector<std::int32_t> chosen;
  chosen.reserve(k);
  const auto refresh = [&](std::size_t i, double best) {
    if (upto[i] == chosen.size()) return;
    bound[i] = update(i, upto[i] == kNever ? 0 : upto[i], chosen, bound[i], best);
    upto[i] = chosen.size();
  };
  while (chosen.size() < std::min(k, bound.size())) {
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

// The same without a bound to rely on: rows that leave the window give back what they took.
std::vector<std::int32_t> dpp_windowed(const double* relevance, std::size_t n, Cosines& cosine, std::size_t k, double strength,
                                       double missing_d2, std::size_t window, double floor, Isa isa) {
  const RerankKernels& kernel = *kernels(isa).rerank;
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
    const bool missing = cosine.missing(j);
    for (std::size_t i = 0; i < n; ++i) column[i] = taken[i] || missing || cosine.missing(i) ? 0 : cosine(i, j) / root;
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
  Cosines cosine(vectors, n, isa);
  std::vector<double> bound(n), closest(n, -1);
  for (std::size_t i = 0; i < n; ++i) bound[i] = (1 - strength) * relevance[i] + strength;
  return lazy_greedy(std::move(bound), k, [&](std::size_t i, std::size_t from, const std::vector<std::int32_t>& chosen, double, double) {
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
  if (window < k) return dpp_windowed(relevance, n, cosine, k, strength, missing_d2, window, floor, isa);
  // Row i of the Cholesky factor at the chosen rows, times the length of its vector, as far as row i was brought up to date;
  // zeros behind, for whole registers.
  constexpr std::size_t kWhole = 32;
  const std::size_t width = (k + kWhole - 1) / kWhole * kWhole;
  AlignedBuffer<float> factor(n * width);
  const auto dot_less = kernels(isa).rerank->dot_less;
  std::vector<double> bound(n), d2(n, 1), scale;  // scale: 1 / (d * length) of each chosen row
  scale.reserve(k);
  for (std::size_t i = 0; i < n; ++i) bound[i] = (1 - strength) * relevance[i];
  return lazy_greedy(std::move(bound), k, [&](std::size_t i, std::size_t from, const std::vector<std::int32_t>& chosen, double last, double best) {
    if (scale.size() < chosen.size()) {
      const auto j = static_cast<std::size_t>(chosen.back());
      scale.push_back(cosine.inverse_norm(j) / std::sqrt(d2[j]));
    }
    float* const own = factor.data() + i * width;
    const double inverse_norm = cosine.inverse_norm(i);
    const bool missing = inverse_norm == 0;
    if (missing) d2[i] = missing_d2;
    const double before = d2[i];
    for (std::size_t t = from; t < chosen.size() && !missing && d2[i] >= floor; ++t) {
      if (scale[t] == 0) continue;
      const auto j = static_cast<std::size_t>(chosen[t]);
      const std::size_t whole = (t + kWhole - 1) / kWhole * kWhole;
      const double scaled = scale[t] * static_cast<double>(dot_less(cosine.row(i), cosine.row(j), vectors.dim, own, factor.data() + j * width, whole));
      own[t] = static_cast<float>(scaled);
      const double rest = scaled * inverse_norm;
      d2[i] -= rest * rest;
    }
    if (!(d2[i] >= floor)) return -kInfinity;
    const double above = last + strength * (d2[i] / before - 1);  // log(x / y) <= x / y - 1 spares most logarithms
    return above < best ? above : (1 - strength) * relevance[i] + strength * std::log(d2[i]);
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
