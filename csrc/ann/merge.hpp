// Packs the live items of a snapshot into a new segment. That takes long and holds no lock: searches and writes go on, and what was
// written meanwhile is carried over to the new segment when it is published (Index::adopt).
#pragma once

#include <atomic>
#include <memory>

#include "ann/index.hpp"

namespace aitems::ann {

class Merge {
 public:
  explicit Merge(const Index& index) : from_(index.snapshot()), options_(index.options()), plan_(index.plan()) {}

  std::size_t items() const { return from_->size(); }
  const Snapshot& from() const { return *from_; }
  // Throws Cancelled soon after `cancel`. If nothing changed and the options are those there were, the segment stays as it is.
  void build(int lists, int degree, bool signs, int threads);
  void cancel() noexcept { cancelled_ = true; }
  // The items of the snapshot, packed; to be measured and given a plan, saved, or adopted. Null before `build`.
  const std::shared_ptr<Index>& built() const { return built_; }

 private:
  std::shared_ptr<const Snapshot> from_;
  BuildOptions options_;
  SearchPlan plan_;
  std::shared_ptr<Index> built_;
  std::atomic<bool> cancelled_{false};
};

// `packed` holds the items of `from`; `now` is a later snapshot of the same segment. Returns the items of `now` over `packed`.
std::shared_ptr<const Snapshot> carried_over(const Snapshot& from, const Snapshot& now, std::shared_ptr<const Segment> packed);

}  // namespace aitems::ann
