#include "embedding/skipgram.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>

#include "base/aligned_buffer.hpp"
#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "simd/kernels.hpp"
#include "simd/skipgram_kernels.hpp"

namespace aitems {
namespace {

constexpr std::size_t kLanes = 16;           // rows are padded to whole blocks of this many floats
constexpr std::size_t kPieceTokens = 8192;   // tokens a thread takes at a time
constexpr std::size_t kMaxTableBytes = std::size_t{64} << 30;
constexpr int kMaxDim = 4096, kMaxWindow = 1024, kMaxNegatives = 256, kMaxEpochs = 100000;
constexpr double kMinRateShare = 1e-4;  // the learning rate never falls below this share of its start

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

// splitmix64 (Steele, Lea, Flood 2014): any seed gives a good stream, so each piece of each epoch has its own.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  std::uint32_t bits32() { return static_cast<std::uint32_t>(next() >> 32); }
  std::uint32_t below(std::uint32_t bound) { return static_cast<std::uint32_t>((std::uint64_t{bits32()} * bound) >> 32); }

 private:
  std::uint64_t state_;
};

Random stream_of(std::uint64_t seed, std::uint64_t epoch, std::uint64_t piece) {
  Random mixed(seed ^ (epoch * 0xD1342543DE82EF95u) ^ (piece * 0xA24BAED4963EE407u));
  return Random(mixed.next());
}

// Vose's alias method: one draw from any distribution costs one random number and one look-up.
class AliasTable {
 public:
  explicit AliasTable(const std::vector<double>& weights) : threshold_(weights.size(), 0xFFFFFFFFu), alias_(weights.size()) {
    double total = 0;
    for (double w : weights) total += w;
    std::vector<double> scaled(weights.size());
    std::vector<std::uint32_t> small, large;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      alias_[i] = static_cast<std::uint32_t>(i);
      scaled[i] = total > 0 ? weights[i] * static_cast<double>(weights.size()) / total : 1.0;
      (scaled[i] < 1.0 ? small : large).push_back(static_cast<std::uint32_t>(i));
    }
    while (!small.empty() && !large.empty()) {
      const std::uint32_t s = small.back(), l = large.back();
      small.pop_back();
      threshold_[s] = static_cast<std::uint32_t>(scaled[s] * 4294967295.0);
      alias_[s] = l;
      scaled[l] -= 1.0 - scaled[s];
      if (scaled[l] < 1.0) {
        large.pop_back();
        small.push_back(l);
      }
    }
  }
  std::uint32_t draw(Random& random) const {
    const std::uint64_t bits = random.next();
    const auto i = static_cast<std::uint32_t>(((bits >> 32) * threshold_.size()) >> 32);
    return static_cast<std::uint32_t>(bits) <= threshold_[i] ? i : alias_[i];
  }

 private:
  std::vector<std::uint32_t> threshold_, alias_;
};

// The logistic function over [-8, 8], linear between 2049 points (error below 1e-6), constant outside.
class Sigmoid {
 public:
  Sigmoid() {
    for (int i = 0; i <= kSteps; ++i) value_[i] = static_cast<float>(1.0 / (1.0 + std::exp(-(i * 16.0 / kSteps - 8.0))));
    value_[kSteps + 1] = value_[kSteps];
  }
  float operator()(float x) const {
    const float at = (std::clamp(x, -8.0f, 8.0f) + 8.0f) * (kSteps / 16.0f);
    const int i = static_cast<int>(at);
    return value_[i] + (value_[i + 1] - value_[i]) * (at - static_cast<float>(i));
  }

 private:
  static constexpr int kSteps = 2048;
  float value_[kSteps + 2];
};

void check(const std::int32_t* ids, const std::int64_t* splits, std::size_t rows, std::size_t vocab_size, const SkipgramOptions& o) {
  auto in_range = [](const char* name, auto value, auto low, auto high) {
    if (!(value >= low && value <= high))
      refuse(std::string(name) + " must be from " + std::to_string(low) + " to " + std::to_string(high) + ", got " + std::to_string(value));
  };
  in_range("dim", o.dim, 1, kMaxDim);
  in_range("window", o.window, 1, kMaxWindow);
  in_range("negatives", o.negatives, 1, kMaxNegatives);
  in_range("epochs", o.epochs, 1, kMaxEpochs);
  in_range("sample", o.sample, 0.0, 1.0);
  in_range("learning_rate", o.learning_rate, 1e-9, 1.0);
  in_range("vocab_size", vocab_size, std::size_t{1}, std::size_t{0x7FFFFFFF});
  const std::size_t bytes = 2 * sizeof(float) * vocab_size * (static_cast<std::size_t>(o.dim) + kLanes);
  if (bytes > kMaxTableBytes)
    refuse("vocab_size " + std::to_string(vocab_size) + " and dim " + std::to_string(o.dim) + " need " + std::to_string(bytes >> 30) +
           " GiB, more than the " + std::to_string(kMaxTableBytes >> 30) + " GiB allowed");
  if (splits[0] != 0) refuse("row_splits must start with 0, got " + std::to_string(splits[0]));
  for (std::size_t r = 0; r < rows; ++r)
    if (splits[r + 1] < splits[r])
      refuse("row_splits must not fall, got " + std::to_string(splits[r]) + " then " + std::to_string(splits[r + 1]) + " at " + std::to_string(r + 1));
  for (std::int64_t i = 0; i < splits[rows]; ++i)
    if (ids[i] < 0 || static_cast<std::size_t>(ids[i]) >= vocab_size)
      refuse("ids must be from 0 to vocab_size - 1 = " + std::to_string(vocab_size - 1) + ", got " + std::to_string(ids[i]) + " at " + std::to_string(i));
}

class Trainer {
 public:
  Trainer(const std::int32_t* ids, const std::int64_t* splits, std::size_t vocab_size, const SkipgramOptions& options,
          const SkipgramKernels& kernels, const std::vector<double>& counts, double total)
      : ids_(ids), splits_(splits), options_(options), kernels_(kernels), noise_(noise_weights(counts)),
        blocks_((static_cast<std::size_t>(options.dim) + kLanes - 1) / kLanes), stride_(blocks_ * kLanes),
        words_total_(total * options.epochs), in_(vocab_size * stride_), out_(vocab_size * stride_), keep_(vocab_size, kAlways) {
    Random random(stream_of(options.seed, ~std::uint64_t{0}, 0));
    const auto dim = static_cast<std::size_t>(options.dim);
    for (std::size_t v = 0; v < vocab_size; ++v)
      for (std::size_t d = 0; d < dim; ++d)
        in_[v * stride_ + d] = (static_cast<float>(random.next() >> 40) / 16777216.0f - 0.5f) / static_cast<float>(dim);
    if (options.sample > 0)
      for (std::size_t v = 0; v < vocab_size; ++v) {
        const double ratio = options.sample * total / std::max(counts[v], 1.0);
        const double share = std::sqrt(ratio) + ratio;  // word2vec.c's form, a little above sqrt(sample / frequency)
        if (share < 1.0) keep_[v] = static_cast<std::uint64_t>(share * 4294967296.0);
      }
  }

  void train_rows(std::size_t begin, std::size_t end, Random random) {
    std::vector<std::int32_t> kept;
    std::vector<Pair> pairs;
    std::vector<float*> rows;
    std::vector<float> scores(static_cast<std::size_t>(options_.negatives) + 1);
    for (std::size_t r = begin; r < end; ++r) {
      kept.clear();
      for (std::int64_t i = splits_[r]; i < splits_[r + 1]; ++i)
        if (keep_[static_cast<std::size_t>(ids_[i])] == kAlways || random.bits32() < keep_[static_cast<std::size_t>(ids_[i])])
          kept.push_back(ids_[i]);
      const auto words = static_cast<std::size_t>(splits_[r + 1] - splits_[r]);
      const std::size_t done = words_done_.fetch_add(words, std::memory_order_relaxed);
      const double left = 1.0 - static_cast<double>(done) / words_total_;
      const auto rate = static_cast<float>(options_.learning_rate * std::max(left, kMinRateShare));
      const auto size = static_cast<std::ptrdiff_t>(kept.size());
      for (std::ptrdiff_t i = 0; i < size; ++i) {
        const auto reach = static_cast<std::ptrdiff_t>(1 + random.below(static_cast<std::uint32_t>(options_.window)));
        const std::ptrdiff_t last = std::min(size - 1, i + reach);
        pairs.clear(), rows.clear();
        for (std::ptrdiff_t j = std::max<std::ptrdiff_t>(0, i - reach); j <= last; ++j)
          if (j != i) draw_pair(kept[static_cast<std::size_t>(j)], kept[static_cast<std::size_t>(i)], random, pairs, rows);
        float** first = rows.data();
        for (const Pair& pair : pairs) {
          train_pair(pair, first, rate, scores.data());
          first += pair.count;
        }
      }
    }
  }

  std::size_t words_done() const { return words_done_.load(std::memory_order_relaxed); }

  std::vector<float> vectors(std::size_t vocab_size) const {
    const auto dim = static_cast<std::size_t>(options_.dim);
    std::vector<float> out(vocab_size * dim);
    for (std::size_t v = 0; v < vocab_size; ++v) std::copy_n(in_.data() + v * stride_, dim, out.data() + v * dim);
    return out;
  }

 private:
  static constexpr std::uint64_t kAlways = std::uint64_t{1} << 32;

  static std::vector<double> noise_weights(const std::vector<double>& counts) {
    std::vector<double> weights(counts.size());
    for (std::size_t v = 0; v < counts.size(); ++v) weights[v] = std::pow(counts[v], 0.75);
    return weights;
  }

  // A context word's vector and how many output rows it is trained against: the word's own first, then noise.
  struct Pair {
    float* centre;
    std::size_t count;
  };

  // A noise word that happens to be the word itself is left out. All pairs of a position are drawn before the first is trained,
  // so that the rows, which lie anywhere in a table larger than the cache, are on their way by then.
  void draw_pair(std::int32_t context, std::int32_t word, Random& random, std::vector<Pair>& pairs, std::vector<float*>& rows) {
    const std::size_t before = rows.size();
    rows.push_back(out_.data() + static_cast<std::size_t>(word) * stride_);
    for (int k = 0; k < options_.negatives; ++k) {
      const std::uint32_t noise = noise_.draw(random);
      if (noise != static_cast<std::uint32_t>(word)) {
        rows.push_back(out_.data() + noise * stride_);
        for (std::size_t d = 0; d < stride_; d += kLanes) __builtin_prefetch(rows.back() + d, 1);
      }
    }
    pairs.push_back({in_.data() + static_cast<std::size_t>(context) * stride_, rows.size() - before});
  }

  // One step up the gradient of log s(u_w . v_c) + sum over noise words n of log s(-u_n . v_c). All scores are taken before any
  // row changes.
  void train_pair(const Pair& pair, float** rows, float rate, float* scores) {
    kernels_.scores(pair.centre, rows, pair.count, blocks_, scores);
    for (std::size_t t = 0; t < pair.count; ++t) scores[t] = ((t == 0 ? 1.0f : 0.0f) - sigmoid_(scores[t])) * rate;
    kernels_.update(pair.centre, rows, scores, pair.count, blocks_);
  }

  const std::int32_t* ids_;
  const std::int64_t* splits_;
  const SkipgramOptions options_;
  const SkipgramKernels& kernels_;
  const AliasTable noise_;
  const Sigmoid sigmoid_;
  const std::size_t blocks_, stride_;
  const double words_total_;
  AlignedBuffer<float> in_, out_;
  std::vector<std::uint64_t> keep_;  // of 2^32 draws, how many keep the token
  std::atomic<std::size_t> words_done_{0};
};

}  // namespace

std::vector<float> train_skipgram(const std::int32_t* ids, const std::int64_t* splits, std::size_t rows, std::size_t vocab_size,
                                  const SkipgramOptions& options, Isa isa, const SkipgramProgress& progress) {
  check(ids, splits, rows, vocab_size, options);
  const int threads = resolve_threads(options.threads);
  const auto tokens = static_cast<std::size_t>(splits[rows]);
  std::vector<double> counts(vocab_size, 0.0);
  for (std::size_t i = 0; i < tokens; ++i) counts[static_cast<std::size_t>(ids[i])] += 1.0;
  Trainer trainer(ids, splits, vocab_size, options, *kernels(isa).skipgram, counts, static_cast<double>(tokens));

  const std::size_t grain = std::max<std::size_t>(1, kPieceTokens * rows / std::max<std::size_t>(1, tokens));
  const std::size_t pieces = (rows + grain - 1) / grain;
  const std::size_t epochs = static_cast<std::size_t>(options.epochs);
  const std::size_t slice = std::max<std::size_t>(static_cast<std::size_t>(threads) * 4, pieces * epochs / 100 + 1);
  for (std::size_t epoch = 0; tokens > 0 && epoch < epochs; ++epoch)
    for (std::size_t first = 0; first < pieces; first += slice) {
      parallel_for(std::min(slice, pieces - first), 1, threads, [&](std::size_t begin, std::size_t end, int) {
        for (std::size_t p = first + begin; p < first + end; ++p)
          trainer.train_rows(p * grain, std::min(rows, (p + 1) * grain), stream_of(options.seed, epoch, p));
      });
      if (progress) progress(trainer.words_done(), tokens * epochs);
    }
  return trainer.vectors(vocab_size);
}

}  // namespace aitems
