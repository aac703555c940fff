#include "category/hedge.hpp"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/thread_pool.hpp"

namespace aitems::category {
namespace {

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

// e^x for x <= 0, relative error below 1e-6 where it matters: 2^t as the power of the whole part times a polynomial of the rest.
// Without branches and calls, so that the loop over a row is one of vectors.
inline float exp_of(float x) {
  const float t = std::max(x * 1.44269504f, -126.f);
  const int whole = static_cast<int>(t) - 1;
  const float rest = t - static_cast<float>(whole);  // (0, 1]
  float p = 1.877576671e-03f;
  p = p * rest + 8.989340340e-03f;
  p = p * rest + 5.582631759e-02f;
  p = p * rest + 2.401536173e-01f;
  p = p * rest + 6.931530731e-01f;
  p = p * rest + 9.999999251e-01f;
  return p * std::bit_cast<float>((whole + 127) << 23);
}

}  // namespace

Hedge::Hedge(TreeSpec spec) : spec_(std::move(spec)) {
  const std::size_t labels = spec_.order.size(), nodes = spec_.node_begin.size();
  if (labels == 0 || spec_.thresholds.size() != labels || spec_.above.size() % labels != 0 || spec_.node_end.size() != nodes)
    invalid("order and thresholds must have one element a label, above some a label, node_begin and node_end one a node; got " + std::to_string(labels) + ", " +
            std::to_string(spec_.thresholds.size()) + ", " + std::to_string(spec_.above.size()) + ", " + std::to_string(nodes) + " and " +
            std::to_string(spec_.node_end.size()));
  depth_ = spec_.above.size() / labels;
  std::vector<bool> seen(labels);
  for (const int32_t label : spec_.order) {
    if (label < 0 || static_cast<std::size_t>(label) >= labels || seen[static_cast<std::size_t>(label)]) invalid("order must hold every label once");
    seen[static_cast<std::size_t>(label)] = true;
  }
  for (std::size_t n = 0; n < nodes; ++n)
    if (spec_.node_begin[n] < 0 || spec_.node_begin[n] > spec_.node_end[n] || static_cast<std::size_t>(spec_.node_end[n]) > labels)
      invalid("node " + std::to_string(n) + " must hold labels from 0 to " + std::to_string(labels) + ", got " + std::to_string(spec_.node_begin[n]) + " to " +
              std::to_string(spec_.node_end[n]));
  for (std::size_t label = 0; label < labels; ++label) {
    const int32_t* line = spec_.above.data() + label * depth_;
    for (std::size_t d = 0; d < depth_; ++d) {
      if (line[d] < -1 || line[d] >= static_cast<int32_t>(nodes)) invalid("above must hold nodes from -1 to " + std::to_string(nodes) + " - 1");
      if (d == 0 || line[d] < 0) continue;
      // a sum grows from the parent up
      const auto inner = static_cast<std::size_t>(std::max(line[d - 1], 0)), outer = static_cast<std::size_t>(line[d]);
      if (line[d - 1] < 0 || spec_.node_begin[outer] > spec_.node_begin[inner] || spec_.node_end[outer] < spec_.node_end[inner])
        invalid("the nodes above label " + std::to_string(label) + " do not lie within one another");
    }
  }
}

Hedge::Sure Hedge::above(float* logits, int32_t label) const {
  const std::size_t count = labels();
  const float most = *std::max_element(logits, logits + count);
  for (std::size_t i = 0; i < count; ++i) logits[i] = exp_of(logits[i] - most);
  double lanes[8] = {};  // sums side by side, so that no addition waits for the one before
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] += logits[i + lane];
  for (; i < count; ++i) lanes[0] += logits[i];
  const double total = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));

  const int32_t* line = spec_.above.data() + static_cast<std::size_t>(label) * depth_;
  const auto add = [&](int32_t from, int32_t to) {
    double sum = 0;
    for (; from < to; ++from) sum += logits[spec_.order[static_cast<std::size_t>(from)]];
    return sum;
  };
  double sum = 0;
  int32_t begin = 0, end = 0;
  for (std::size_t d = 0; d < depth_ && line[d] >= 0; ++d) {
    const auto node = static_cast<std::size_t>(line[d]);
    if (d == 0) begin = end = spec_.node_begin[node];
    sum += add(spec_.node_begin[node], begin) + add(end, spec_.node_end[node]);
    begin = spec_.node_begin[node];
    end = spec_.node_end[node];
    const auto probability = static_cast<float>(sum / total);
    if (probability >= threshold(label)) return {line[d], probability};
  }
  return {};
}

void Hedge::above(float* logits, const int32_t* best, std::size_t rows, int threads, Sure* out) const {
  for (std::size_t row = 0; row < rows; ++row)
    if (best[row] < 0 || static_cast<std::size_t>(best[row]) >= labels())
      invalid("labels must be from 0 to " + std::to_string(labels() - 1) + ", got " + std::to_string(best[row]) + " in row " + std::to_string(row));
  parallel_for(rows, 16, threads, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t row = begin; row < end; ++row) out[row] = above(logits + row * labels(), best[row]);
  });
}

}  // namespace aitems::category
