// Candidate buffers of the queries of one tile, and the total order in which results stand: higher score first, then lower id.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "simd/ann_kernels.hpp"

namespace aitems::ann {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Held by a thread around its scans.
struct Entered {
  explicit Entered(const AnnKernels& simd) : leave(simd.leave) { simd.enter(); }
  ~Entered() { leave(); }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;
  void (*leave)();
};

struct Hit {
  float score;
  std::int64_t id;
  std::uint32_t row;
  bool operator<(const Hit& other) const { return score != other.score ? score > other.score : id < other.id; }
};

// Room for the best `keep` of each query while rows stream by in steps of at most `step` rows.
class Candidates {
 public:
  void start(const AnnKernels& simd, std::size_t queries, int keep, int step) {
    simd_ = &simd;
    keep_ = keep;
    full_ = std::max(2 * keep, 32);
    const std::size_t capacity = static_cast<std::size_t>(full_ + step + 2 * 16);
    if (rows_.size() < queries * capacity) {  // the last to grow: memory may run out between the two
      scores_.resize(queries * capacity);
      rows_.resize(queries * capacity);
    }
    queries_.assign(queries, AnnQuery{});
    for (std::size_t q = 0; q < queries; ++q) {
      queries_[q].threshold = kMinusInfinity;
      queries_[q].scores = &scores_[q * capacity];
      queries_[q].rows = &rows_[q * capacity];
    }
  }
  AnnQuery& operator[](std::size_t q) { return queries_[q]; }
  AnnQuery* data() { return queries_.data(); }

  // Makes room again after a step. The true best `keep` always stay.
  template <class IdOf>
  void make_room(AnnQuery& query, const IdOf& id_of) {
    if (query.count <= full_) return;
    simd_->cut(&query, keep_);
    if (query.count > full_) keep_best(query, id_of, true);  // ties that bisection cannot part
  }
  // Leaves exactly the best `keep` (or all, if fewer), in no particular order.
  template <class IdOf>
  void finish(AnnQuery& query, const IdOf& id_of) {
    if (query.count <= keep_) return;
    simd_->cut(&query, keep_);
    if (query.count > keep_) keep_best(query, id_of, false);
  }

 private:
  template <class IdOf>
  void keep_best(AnnQuery& query, const IdOf& id_of, bool more_to_come) {
    hits_.clear();
    for (std::int32_t i = 0; i < query.count; ++i) hits_.push_back({query.scores[i], id_of(query.rows[i]), query.rows[i]});
    std::nth_element(hits_.begin(), hits_.begin() + (keep_ - 1), hits_.end());
    query.count = keep_;
    for (int i = 0; i < keep_; ++i) {
      query.scores[i] = hits_[static_cast<std::size_t>(i)].score;
      query.rows[i] = hits_[static_cast<std::size_t>(i)].row;
    }
    // A later row with this very score may have a lower id, so it must pass.
    if (more_to_come) query.threshold = std::nextafter(hits_[static_cast<std::size_t>(keep_ - 1)].score, kMinusInfinity);
  }

  const AnnKernels* simd_ = nullptr;
  int keep_ = 0, full_ = 0;
  std::vector<float> scores_;
  std::vector<std::uint32_t> rows_;
  std::vector<AnnQuery> queries_;
  std::vector<Hit> hits_;
};

}  // namespace aitems::ann
