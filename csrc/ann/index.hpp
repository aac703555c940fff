// The index users hold: one writer at a time, any number of readers. A reader copies a pointer to the current snapshot (the only
// moment it holds a lock) and searches it undisturbed; a writer prepares the next snapshot beside and swaps the pointer.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "ann/search.hpp"
#include "ann/snapshot.hpp"

namespace aitems::ann {

class Index {
 public:
  Index(std::shared_ptr<const Segment> segment, BuildOptions options, SearchPlan plan);

  // Searches `count` queries of dim() floats; see ann::search. `program` may be null. Thread-safe.
  std::string search(const float* queries, std::size_t count, const SearchOptions& options, const FilterProgram* program,
                     std::int64_t* ids, float* scores) const;

  // Adds vectors, replacing those with the same id. Checked ids and vectors (normalised for cosine). `attributes` may be empty: then
  // a replaced item keeps its values and a new one has none. Returns how many ids were replaced.
  std::size_t upsert(const float* vectors, const std::int64_t* ids, std::size_t count, const std::vector<AttributeColumn>& attributes);
  // Returns how many of the ids were there.
  std::size_t erase(const std::int64_t* ids, std::size_t count);
  // Takes over the segment, plan and options of `merged`, which was built from snapshot `from` (merge.hpp), with what was written
  // since. An error if another merge came first.
  void adopt(const Snapshot& from, const Index& merged);
  // Copies the vectors of `ids` into `out` (count x dim), as stored. Returns which are there; rows of others are left alone.
  std::vector<bool> vectors(const std::int64_t* ids, std::size_t count, float* out) const;

  std::shared_ptr<const Snapshot> snapshot() const;
  std::vector<std::int64_t> live_ids() const;  // ascending
  SearchPlan plan() const;
  void set_plan(SearchPlan plan);
  BuildOptions options() const;
  int dim() const { return dim_; }

 private:
  struct Edit;  // the next snapshot under construction
  void begin_write();
  void index_delta(const Snapshot& of);  // fills delta_rows_
  void publish(std::shared_ptr<const Snapshot> next);
  bool remove(Edit& edit, std::int64_t id, std::vector<std::vector<std::uint32_t>>* values);

  const int dim_;
  mutable std::mutex pointer_mutex_;  // guards current_, plan_ and options_ only
  BuildOptions options_;
  std::shared_ptr<const Snapshot> current_;
  std::shared_ptr<const SearchPlan> plan_;
  std::mutex writer_mutex_;
  std::unordered_map<std::int64_t, std::uint32_t> delta_rows_;  // live rows of the delta; the writer's own
  bool delta_rows_known_ = true;  // false after a write that failed half way, of which nothing was published
};

}  // namespace aitems::ann
