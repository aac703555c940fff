#include "ann/index.hpp"

#include <algorithm>
#include <bit>

#include "base/error.hpp"

namespace aitems::ann {
namespace {

bool live_at(const LiveMask& mask, std::size_t row) { return mask[row / kBlockRows] >> row % kBlockRows & 1; }
void clear_at(LiveMask& mask, std::size_t row) {
  mask[row / kBlockRows] = static_cast<std::uint16_t>(mask[row / kBlockRows] & ~(1u << row % kBlockRows));
}
void set_at(LiveMask& mask, std::size_t row) {
  mask[row / kBlockRows] = static_cast<std::uint16_t>(mask[row / kBlockRows] | 1u << row % kBlockRows);
}

std::shared_ptr<const Snapshot> first_snapshot(std::shared_ptr<const Segment> segment) {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->live = std::make_shared<LiveMask>(segment->present.data(), segment->present.data() + segment->present.size());
  snapshot->live_items = segment->items;
  snapshot->opening = std::make_shared<const Opening>(opening_of(*segment, *snapshot->live));
  snapshot->delta_live = std::make_shared<LiveMask>();
  snapshot->segment = std::move(segment);
  return snapshot;
}

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

// Runs its action unless dismissed: a write that runs out of memory half way leaves the published snapshot as it was.
template <class Action>
class OnFailure {
 public:
  explicit OnFailure(Action action) : action_(action) {}
  ~OnFailure() {
    if (armed_) action_();
  }
  void dismiss() { armed_ = false; }

 private:
  Action action_;
  bool armed_ = true;
};

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
    : options_(options),
      dim_(segment->dim),
      current_(first_snapshot(std::move(segment))),
      plan_(std::make_shared<const SearchPlan>(std::move(plan))) {}

std::shared_ptr<const Snapshot> Index::snapshot() const {
  std::lock_guard<std::mutex> lock(pointer_mutex_);
  return current_;
}

void Index::publish(std::shared_ptr<const Snapshot> next) {
  std::lock_guard<std::mutex> lock(pointer_mutex_);
  current_.swap(next);  // the old one is freed after the lock
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
  std::lock_guard<std::mutex> writer(writer_mutex_);
  Edit edit(*snapshot());
  Snapshot& next = *edit.next;
  if (next.delta_rows + count > kRowsMax) throw Error(ErrorKind::kInvalidInput, "too many added rows; call compact()");
  std::size_t replaced = 0;
  OnFailure undo([this] { index_delta(); });
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
  undo.dismiss();
  return replaced;
}

std::size_t Index::erase(const std::int64_t* ids, std::size_t count) {
  std::lock_guard<std::mutex> writer(writer_mutex_);
  Edit edit(*snapshot());
  std::size_t removed = 0;
  OnFailure undo([this] { index_delta(); });
  for (std::size_t i = 0; i < count; ++i) removed += remove(edit, ids[i], nullptr);
  publish(edit.finish());
  undo.dismiss();
  return removed;
}

void Index::index_delta() {
  const std::shared_ptr<const Snapshot> now = snapshot();
  delta_rows_.clear();
  for (std::size_t row = 0; row < now->delta_rows; ++row)
    if (live_at(*now->delta_live, row)) delta_rows_[now->delta_id(row)] = static_cast<std::uint32_t>(row);
}

void Index::compact(int threads) {
  std::lock_guard<std::mutex> writer(writer_mutex_);
  const std::shared_ptr<const Snapshot> from = snapshot();
  const Segment& old = *from->segment;
  if (from->delta_rows == 0 && from->live_items == old.items) return;
  const std::size_t dim = static_cast<std::size_t>(dim_), count = from->size();
  std::vector<float> vectors(count * dim), wide(static_cast<std::size_t>(old.stride()));
  std::vector<std::int64_t> ids(count);

  std::size_t num_attributes = old.attributes.size();
  for (std::size_t row = 0; row < from->delta_rows; ++row)
    num_attributes = std::max(num_attributes, from->chunks[row / kDeltaChunkRows]->values[row % kDeltaChunkRows].size());
  std::vector<std::vector<std::pair<std::uint32_t, std::uint32_t>>> pairs(num_attributes);  // (item, value)
  std::vector<std::uint32_t> item_of(old.rows, 0xffffffffu);

  std::size_t item = 0;
  for (std::size_t row = 0; row < old.rows; ++row) {
    if (!live_at(*from->live, row)) continue;
    old.widen(row, wide.data());
    std::copy_n(wide.data(), dim, &vectors[item * dim]);
    item_of[row] = static_cast<std::uint32_t>(item);
    ids[item++] = old.ids[row];
  }
  for (std::size_t a = 0; a < old.attributes.size(); ++a)
    for (std::uint32_t v = 0; v + 1 < old.attributes[a].starts.size(); ++v)
      for (std::uint64_t i = old.attributes[a].starts[v]; i < old.attributes[a].starts[v + 1]; ++i)
        if (const std::uint32_t held = item_of[old.attributes[a].rows[i]]; held != 0xffffffffu) pairs[a].emplace_back(held, v);
  for (std::size_t row = 0; row < from->delta_rows; ++row) {
    if (!live_at(*from->delta_live, row)) continue;
    std::copy_n(from->delta_vector(row), dim, &vectors[item * dim]);
    const auto& held = from->chunks[row / kDeltaChunkRows]->values[row % kDeltaChunkRows];
    for (std::size_t a = 0; a < held.size(); ++a)
      for (std::uint32_t v : held[a]) pairs[a].emplace_back(static_cast<std::uint32_t>(item), v);
    ids[item++] = from->delta_id(row);
  }

  std::vector<AttributeColumn> attributes(num_attributes);
  for (std::size_t a = 0; a < num_attributes; ++a) {
    std::sort(pairs[a].begin(), pairs[a].end());
    AttributeColumn& column = attributes[a];
    column.starts.assign(count + 1, 0);
    if (a < old.attributes.size()) column.num_values = static_cast<std::uint32_t>(old.attributes[a].starts.size() - 1);
    for (const auto& [held, value] : pairs[a]) {
      ++column.starts[held + 1];
      column.values.push_back(value);
      column.num_values = std::max(column.num_values, value + 1);
    }
    for (std::size_t i = 0; i < count; ++i) column.starts[i + 1] += column.starts[i];
  }
  BuildOptions options = options_;
  options.threads = threads;
  publish(first_snapshot(build_segment(vectors.data(), count, dim_, ids.data(), attributes, options)));
  delta_rows_.clear();
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
