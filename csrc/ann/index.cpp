#include "ann/index.hpp"

#include <algorithm>

#include "ann/check.hpp"
#include "ann/merge.hpp"
#include "base/error.hpp"

namespace aitems::ann {
namespace {

// The values of one row of the segment, by attribute. Postings are by value, so this looks through all of them.
std::vector<std::vector<std::uint32_t>> values_of(const Segment& segment, std::uint32_t row) {
  std::vector<std::vector<std::uint32_t>> values(segment.attributes.size());
  for (std::size_t a = 0; a < values.size(); ++a) {
    const Postings& postings = segment.attributes[a];
    for (std::uint32_t v = 0; v + 1 < postings.starts.size(); ++v)
      if (std::binary_search(postings.rows.data() + postings.starts[v], postings.rows.data() + postings.starts[v + 1], row))
        values[a].push_back(v);
  }
  return values;
}

}  // namespace

struct Index::Edit {
  explicit Edit(const Snapshot& from)
      : next(std::make_shared<Snapshot>(from)), live(*from.live), delta_live(*from.delta_live) {}
  std::shared_ptr<Snapshot> next;
  LiveMask live, delta_live;

  std::shared_ptr<const Snapshot> finish() {
    if (live != *next->live) next->opening = std::make_shared<const Opening>(opening_of(*next->segment, live));
    next->live = std::make_shared<const LiveMask>(std::move(live));
    next->delta_live = std::make_shared<const LiveMask>(std::move(delta_live));
    return next;
  }
};

Index::Index(std::shared_ptr<const Segment> segment, BuildOptions options, SearchPlan plan)
    : dim_(segment->dim),
      options_(options),
      current_(snapshot_of(std::move(segment))),
      plan_(std::make_shared<const SearchPlan>(std::move(plan))) {}

std::shared_ptr<const Snapshot> Index::snapshot() const {
  std::lock_guard<std::mutex> lock(pointer_mutex_);
  return current_;
}

void Index::publish(std::shared_ptr<const Snapshot> next) {
  std::lock_guard<std::mutex> lock(pointer_mutex_);
  current_.swap(next);  // the old one is freed after the lock
}

BuildOptions Index::options() const {
  std::lock_guard<std::mutex> lock(pointer_mutex_);
  return options_;
}

SearchPlan Index::plan() const {
  std::lock_guard<std::mutex> lock(pointer_mutex_);
  return *plan_;
}

void Index::set_plan(SearchPlan plan) {
  auto next = std::make_shared<const SearchPlan>(std::move(plan));
  std::lock_guard<std::mutex> lock(pointer_mutex_);
  plan_ = std::move(next);
}

std::string Index::search(const float* queries, std::size_t count, const SearchOptions& options, const FilterProgram* program,
                          std::int64_t* ids, float* scores) const {
  std::shared_ptr<const Snapshot> snapshot;
  std::shared_ptr<const SearchPlan> plan;
  {
    std::lock_guard<std::mutex> lock(pointer_mutex_);
    snapshot = current_;
    plan = plan_;
  }
  if (!program) return ann::search(*snapshot, *plan, queries, count, options, nullptr, ids, scores);
  const RowMask mask = evaluate(*program, *snapshot);
  return ann::search(*snapshot, *plan, queries, count, options, &mask, ids, scores);
}

bool Index::remove(Edit& edit, std::int64_t id, std::vector<std::vector<std::uint32_t>>* values) {
  if (const auto at = delta_rows_.find(id); at != delta_rows_.end()) {
    if (values) *values = edit.next->chunks[at->second / kDeltaChunkRows]->values[at->second % kDeltaChunkRows];
    clear_at(edit.delta_live, at->second);
    --edit.next->delta_live_items;
    delta_rows_.erase(at);
    return true;
  }
  const std::int64_t row = edit.next->segment->row_of(id);
  if (row < 0 || !live_at(edit.live, static_cast<std::size_t>(row))) return false;
  if (values) *values = values_of(*edit.next->segment, static_cast<std::uint32_t>(row));
  clear_at(edit.live, static_cast<std::size_t>(row));
  --edit.next->live_items;
  return true;
}

std::size_t Index::upsert(const float* vectors, const std::int64_t* ids, std::size_t count,
                          const std::vector<AttributeColumn>& attributes) {
  if (options().format == VectorFormat::kHalf) check_half(vectors, count * static_cast<std::size_t>(dim_));
  std::lock_guard<std::mutex> writer(writer_mutex_);
  begin_write();
  Edit edit(*snapshot());
  Snapshot& next = *edit.next;
  if (next.delta_rows + count > kRowsMax) throw Error(ErrorKind::kInvalidInput, "too many added rows; call compact()");
  std::size_t replaced = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<std::vector<std::uint32_t>> values;
    replaced += remove(edit, ids[i], attributes.empty() ? &values : nullptr);
    for (const AttributeColumn& attribute : attributes)
      values.emplace_back(attribute.values.begin() + static_cast<std::ptrdiff_t>(attribute.starts[i]),
                          attribute.values.begin() + static_cast<std::ptrdiff_t>(attribute.starts[i + 1]));
    const std::size_t row = next.delta_rows++;
    if (row % kDeltaChunkRows == 0) {
      next.chunks.push_back(std::make_shared<DeltaChunk>(next.segment->stride()));
      edit.delta_live.resize(next.chunks.size() * (kDeltaChunkRows / kBlockRows));
    }
    DeltaChunk& chunk = *next.chunks.back();
    std::copy_n(vectors + i * static_cast<std::size_t>(dim_), dim_,
                chunk.vectors.data() + row % kDeltaChunkRows * static_cast<std::size_t>(next.segment->stride()));
    chunk.ids[row % kDeltaChunkRows] = ids[i];
    chunk.values[row % kDeltaChunkRows] = std::move(values);
    set_at(edit.delta_live, row);
    ++next.delta_live_items;
    delta_rows_[ids[i]] = static_cast<std::uint32_t>(row);
  }
  publish(edit.finish());
  delta_rows_known_ = true;
  return replaced;
}

std::size_t Index::erase(const std::int64_t* ids, std::size_t count) {
  std::lock_guard<std::mutex> writer(writer_mutex_);
  begin_write();
  Edit edit(*snapshot());
  std::size_t removed = 0;
  for (std::size_t i = 0; i < count; ++i) removed += remove(edit, ids[i], nullptr);
  publish(edit.finish());
  delta_rows_known_ = true;
  return removed;
}

void Index::begin_write() {
  if (!delta_rows_known_) index_delta(*snapshot());
  delta_rows_known_ = false;
}

void Index::index_delta(const Snapshot& of) {
  delta_rows_.clear();
  for (std::size_t row = 0; row < of.delta_rows; ++row)
    if (live_at(*of.delta_live, row)) delta_rows_[of.delta_id(row)] = static_cast<std::uint32_t>(row);
}

void Index::adopt(const Snapshot& from, const Index& merged) {
  std::lock_guard<std::mutex> writer(writer_mutex_);
  const std::shared_ptr<const Snapshot> now = snapshot();
  if (now->segment != from.segment) throw Error(ErrorKind::kInvalidInput, "another merge was published meanwhile");
  const std::shared_ptr<const Snapshot> next = carried_over(from, *now, merged.snapshot()->segment);
  auto plan = std::make_shared<const SearchPlan>(merged.plan());
  const BuildOptions options = merged.options();
  delta_rows_known_ = false;
  index_delta(*next);
  std::lock_guard<std::mutex> lock(pointer_mutex_);
  current_ = next;  // `now` frees the old one after the lock
  plan_.swap(plan);
  options_ = options;
  delta_rows_known_ = true;
}

std::vector<bool> Index::vectors(const std::int64_t* ids, std::size_t count, float* out) const {
  const std::shared_ptr<const Snapshot> now = snapshot();
  const std::size_t dim = static_cast<std::size_t>(dim_);
  std::unordered_map<std::int64_t, std::size_t> added;
  for (std::size_t row = 0; row < now->delta_rows; ++row)
    if (live_at(*now->delta_live, row)) added[now->delta_id(row)] = row;
  std::vector<float> wide(static_cast<std::size_t>(now->segment->stride()));
  std::vector<bool> found(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (const auto at = added.find(ids[i]); at != added.end()) {
      std::copy_n(now->delta_vector(at->second), dim, out + i * dim);
      found[i] = true;
    } else if (const std::int64_t row = now->segment->row_of(ids[i]); row >= 0 && live_at(*now->live, static_cast<std::size_t>(row))) {
      now->segment->widen(static_cast<std::size_t>(row), wide.data());
      std::copy_n(wide.data(), dim, out + i * dim);
      found[i] = true;
    }
  }
  return found;
}

std::vector<std::int64_t> Index::live_ids() const {
  const std::shared_ptr<const Snapshot> now = snapshot();
  std::vector<std::int64_t> ids;
  ids.reserve(now->size());
  for (std::size_t row = 0; row < now->segment->rows; ++row)
    if (live_at(*now->live, row)) ids.push_back(now->segment->ids[row]);
  for (std::size_t row = 0; row < now->delta_rows; ++row)
    if (live_at(*now->delta_live, row)) ids.push_back(now->delta_id(row));
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace aitems::ann
