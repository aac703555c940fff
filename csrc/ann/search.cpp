#include "ann/search.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "ann/candidates.hpp"
#include "base/thread_pool.hpp"
#include "simd/kernels.hpp"

namespace aitems::ann {
namespace {

// Queries that are answered together: the more, the more of them share a list that has come into the cache. Their candidates bound it.
constexpr std::size_t kTileQueries = 1024, kTileCandidates = std::size_t{1} << 21;
constexpr std::size_t kExactRows = 256, kExactQueries = 16;  // rows of one step stay in the nearest cache for 16 queries
constexpr std::size_t kCoarseQueries = 32;
constexpr std::size_t kSampleRows = 256;  // of the nearest list, for a first threshold
constexpr std::size_t kStepBytes = 32 << 10;  // codes of one step of a list scan, for the same reason

// What all tiles of one call share.
struct Call {
  const Snapshot& snapshot;
  const Segment& segment;
  const AnnKernels* simd;
  SearchOptions options;
  const std::uint16_t* live;        // of the segment's blocks
  const std::uint16_t* delta_live;  // of the delta's
  std::size_t items, delta_items;   // that may be returned
  std::vector<std::uint32_t> subset;  // rows to score, when the way is an exact subset
  const Opening& opening;
  Way way;
};

struct Scratch {
  std::vector<float> queries, norms, factors;  // padded to the stride; factor = 1 / scale of the codes
  std::vector<std::int8_t> codes;
  std::vector<std::int32_t> corrections;
  Candidates candidates, coarse, delta;
  std::vector<float> scores;
  std::vector<std::vector<std::uint32_t>> probed;  // lists of each query, nearest first
  std::vector<std::vector<float>> probed_scores;   // in the units of the query's code sums
  std::vector<std::uint8_t> sign_tables;
  std::vector<std::uint32_t> starts, entries;
  std::vector<AnnQuery> group;
  std::vector<std::int8_t> group_codes;
  std::vector<std::vector<Hit>> hits;
  Walk walk;
  std::vector<std::int8_t> walk_codes;
};

void score_rows(const Call& call, const float* query, const std::uint32_t* rows, std::size_t first, std::size_t count, float* out) {
  const Segment& s = call.segment;
  const std::size_t offset = first * static_cast<std::size_t>(s.stride());
  const bool l2 = s.metric == Metric::kL2;
  if (s.format == VectorFormat::kFloat) {
    (l2 ? call.simd->negative_distance : call.simd->dot)(query, s.vectors.data() + offset, s.stride(), rows, count, out);
  } else {
    (l2 ? call.simd->negative_distance_half : call.simd->dot_half)(query, s.halves.data() + offset, s.stride(), rows, count, out);
  }
}

void load_queries(const Call& call, const float* queries, std::size_t count, Scratch& scratch) {
  const Segment& s = call.segment;
  const std::size_t dim = static_cast<std::size_t>(s.dim), stride = static_cast<std::size_t>(s.stride());
  const std::size_t code_dim = static_cast<std::size_t>(s.code_dim());
  scratch.queries.assign(count * stride, 0);
  for (std::size_t q = 0; q < count; ++q) std::memcpy(&scratch.queries[q * stride], queries + q * dim, dim * sizeof(float));
  if (s.lists == 0) return;
  scratch.codes.assign((count + kAnnQueriesRead) * code_dim, 0);
  scratch.factors.resize(count);
  scratch.norms.resize(count);
  scratch.corrections.resize(count);
  for (std::size_t q = 0; q < count; ++q) {
    const float* x = &scratch.queries[q * stride];
    std::int8_t* codes = &scratch.codes[q * code_dim];
    scratch.factors[q] = 1 / code_scale(*call.simd, x, s.dim);
    call.simd->quantize(x, s.dim, scratch.factors[q], codes);
    std::int32_t sum = 0;
    for (std::size_t d = 0; d < code_dim; ++d) sum += codes[d];
    scratch.corrections[q] = 128 * sum;
    float squared;
    call.simd->dot(x, x, s.stride(), nullptr, 1, &squared);
    scratch.norms[q] = std::sqrt(squared);
  }
}

// --- exact ---------------------------------------------------------------------------------------------------------------

void take_hits(AnnQuery& query, const float* scores, const Call& call, std::vector<Hit>& hits) {
  for (std::int32_t i = 0; i < query.count; ++i)
    hits.push_back({scores[i], call.segment.ids[query.rows[i]], query.rows[i]});
}

void scan_exact(const Call& call, std::size_t count, Scratch& scratch) {
  const Segment& s = call.segment;
  const std::size_t stride = static_cast<std::size_t>(s.stride());
  const bool subset = !call.subset.empty();
  const std::size_t rows = subset ? call.subset.size() : s.rows;
  const auto row_at = [&](std::uint32_t i) { return subset ? call.subset[i] : i; };
  const auto id_of = [&](std::uint32_t i) { return s.ids[row_at(i)]; };
  std::uint16_t all[kExactRows / kBlockRows];
  std::fill(std::begin(all), std::end(all), std::uint16_t{0xffff});
  scratch.scores.resize(kExactRows);
  const int keep = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(call.options.k), call.items));
  for (std::size_t q0 = 0; q0 < count; q0 += kExactQueries) {
    const std::size_t queries = std::min(kExactQueries, count - q0);
    scratch.candidates.start(*call.simd, queries, keep, kExactRows);
    for (std::size_t first = 0; first < rows; first += kExactRows) {
      const std::size_t step = std::min(kExactRows, rows - first);
      const std::uint16_t* live = subset ? all : call.live + first / kBlockRows;
      if (!subset && std::all_of(live, live + step / kBlockRows, [](std::uint16_t bits) { return bits == 0; })) continue;
      for (std::size_t q = 0; q < queries; ++q) {
        score_rows(call, &scratch.queries[(q0 + q) * stride], subset ? &call.subset[first] : nullptr, subset ? 0 : first, step,
                   scratch.scores.data());
        call.simd->collect(scratch.scores.data(), step, static_cast<std::uint32_t>(first), live, &scratch.candidates[q]);
        scratch.candidates.make_room(scratch.candidates[q], id_of);
      }
    }
    for (std::size_t q = 0; q < queries; ++q) {
      AnnQuery& found = scratch.candidates[q];
      scratch.candidates.finish(found, id_of);
      for (std::int32_t i = 0; i < found.count; ++i) found.rows[i] = row_at(found.rows[i]);
      take_hits(found, found.scores, call, scratch.hits[q0 + q]);
    }
  }
}

// --- inverted lists --------------------------------------------------------------------------------------------------------

AnnBlocks blocks_of(const CodeTable& table, int code_dim, const std::uint16_t* live) {
  return {table.codes.data(), table.scales.data(), table.biases.empty() ? nullptr : table.biases.data(), live, code_dim};
}

void point_at(const Scratch& scratch, std::size_t q, int code_dim, AnnQuery& query) {
  query.codes = &scratch.codes[q * static_cast<std::size_t>(code_dim)];
  query.correction = scratch.corrections[q];
  query.bias_factor = scratch.factors[q];
}

// The open lists nearest to each query, the nearest first.
void probe(const Call& call, std::size_t count, Scratch& scratch) {
  const Segment& s = call.segment;
  const AnnBlocks blocks = blocks_of(s.centroids, s.code_dim(), call.opening.lists.data());
  const std::size_t num_blocks = call.opening.lists.size();
  const int probes = std::min(call.way.effort.probes, call.opening.num_lists);
  if (scratch.probed_scores.size() < count) {
    scratch.probed.resize(count);
    scratch.probed_scores.resize(count);
  }
  const auto id_of = [](std::uint32_t list) { return static_cast<std::int64_t>(list); };
  for (std::size_t q0 = 0; q0 < count; q0 += kCoarseQueries) {
    const std::size_t queries = std::min(kCoarseQueries, count - q0);
    scratch.coarse.start(*call.simd, queries, probes, static_cast<int>(num_blocks * kBlockRows));
    for (std::size_t q = 0; q < queries; ++q) point_at(scratch, q0 + q, s.code_dim(), scratch.coarse[q]);
    call.simd->scan(&blocks, 0, num_blocks, scratch.coarse.data(), static_cast<std::int32_t>(queries));
    for (std::size_t q = 0; q < queries; ++q) {
      AnnQuery& found = scratch.coarse[q];
      scratch.coarse.finish(found, id_of);
      std::int32_t nearest = 0;
      for (std::int32_t i = 1; i < found.count; ++i)
        if (found.scores[i] > found.scores[nearest] ||
            (found.scores[i] == found.scores[nearest] && found.rows[i] < found.rows[nearest]))
          nearest = i;
      if (found.count) {
        std::swap(found.rows[0], found.rows[nearest]);
        std::swap(found.scores[0], found.scores[nearest]);
      }
      scratch.probed[q0 + q].assign(found.rows, found.rows + found.count);
      scratch.probed_scores[q0 + q].assign(found.scores, found.scores + found.count);
    }
  }
}

// A multiple of the blocks that share one scale.
std::size_t step_blocks(const Segment& s) {
  const std::size_t groups = kStepBytes / (static_cast<std::size_t>(s.code_dim()) * kBlockRows) / kScaleBlocks;
  return std::clamp<std::size_t>(groups, 1, 4) * kScaleBlocks;
}

// No code of a vector is longer than this many times the vector (rounding moves a component by at most half a step of
// largest / 127), so a block whose longest vector times this cannot reach the threshold holds nothing. Inner product only.
float bound_slack(int dim) {
  const float longer = 1 + std::sqrt(static_cast<float>(dim)) / 254;
  return longer * longer;
}

// The first `most` blocks of a list.
void scan_list(const Call& call, const AnnBlocks& blocks, std::uint32_t list, std::size_t most, AnnQuery* queries,
               const float* reach, std::size_t count, Scratch& scratch) {
  const Segment& s = call.segment;
  const auto id_of = [&](std::uint32_t row) { return s.ids[row]; };
  const std::size_t step = step_blocks(s);
  const std::size_t end = std::min<std::size_t>(s.list_blocks[list + 1], s.list_blocks[list] + most);
  for (std::size_t b = s.list_blocks[list]; b < end; b += step) {
    if (!s.block_norms.empty()) {
      bool alive = false;
      for (std::size_t q = 0; q < count; ++q) alive |= reach[q] * s.block_norms[b] > queries[q].threshold;
      if (!alive) return;
    }
    call.simd->scan(&blocks, b, std::min(end, b + step), queries, static_cast<std::int32_t>(count));
    for (std::size_t q = 0; q < count; ++q) scratch.candidates.make_room(queries[q], id_of);
  }
}

constexpr std::size_t kWhole = kRowsMax;  // blocks

void scan_single(const Call& call, const AnnBlocks& blocks, std::size_t count, Scratch& scratch) {
  const float slack = bound_slack(call.segment.dim);
  for (std::size_t q = 0; q < count; ++q) {
    const float reach = scratch.norms[q] * scratch.factors[q] * slack;
    for (std::uint32_t list : scratch.probed[q]) scan_list(call, blocks, list, kWhole, &scratch.candidates[q], &reach, 1, scratch);
  }
}

// All queries of a tile that probe a list scan it together. First the beginning of each query's nearest list, which gives it a sharp
// threshold; what was found there is dropped, unless that was the whole list, and found again with the rest.
void scan_grouped(const Call& call, const AnnBlocks& blocks, std::size_t count, Scratch& scratch) {
  const Segment& s = call.segment;
  const std::size_t lists = static_cast<std::size_t>(s.lists), code_dim = static_cast<std::size_t>(s.code_dim());
  const float slack = bound_slack(s.dim);
  const auto is_sample = [&](std::uint32_t list) { return (s.list_blocks[list + 1] - s.list_blocks[list]) * kBlockRows <= kSampleRows; };
  std::vector<float> reach(count);
  scratch.group.resize(count);
  scratch.group_codes.resize((count + kAnnQueriesRead) * code_dim);
  for (const bool rest : {false, true}) {
    scratch.starts.assign(lists + 1, 0);
    const auto each = [&](const auto& visit) {
      for (std::size_t q = 0; q < count; ++q) {
        const auto& probed = scratch.probed[q];
        const std::size_t first = rest && !probed.empty() && is_sample(probed[0]) ? 1 : 0;
        const std::size_t last = rest ? probed.size() : std::min<std::size_t>(1, probed.size());
        for (std::size_t i = first; i < last; ++i) visit(probed[i], static_cast<std::uint32_t>(q));
      }
    };
    each([&](std::uint32_t list, std::uint32_t) { ++scratch.starts[list + 1]; });
    for (std::size_t l = 0; l < lists; ++l) scratch.starts[l + 1] += scratch.starts[l];
    scratch.entries.resize(scratch.starts[lists]);
    each([&](std::uint32_t list, std::uint32_t q) { scratch.entries[scratch.starts[list]++] = q; });
    std::uint32_t begin = 0;  // starts[l] is now the end of list l
    for (std::size_t l = 0; l < lists; ++l) {
      const std::uint32_t list = static_cast<std::uint32_t>(l), end = scratch.starts[l];
      const std::size_t queries = end - begin;
      for (std::size_t i = 0; i < queries; ++i) {
        const std::uint32_t q = scratch.entries[begin + i];
        scratch.group[i] = scratch.candidates[q];
        scratch.group[i].codes = &scratch.group_codes[i * code_dim];
        std::memcpy(&scratch.group_codes[i * code_dim], &scratch.codes[q * code_dim], code_dim);
        reach[i] = scratch.norms[q] * scratch.factors[q] * slack;
      }
      if (queries) scan_list(call, blocks, list, rest ? kWhole : kSampleRows / kBlockRows, scratch.group.data(), reach.data(), queries, scratch);
      for (std::size_t i = 0; i < queries; ++i) {
        if (!rest && !is_sample(list)) scratch.group[i].count = 0;
        scratch.candidates[scratch.entries[begin + i]] = scratch.group[i];
      }
      begin = end;
    }
  }
}

void rerank(const Call& call, std::size_t q, Scratch& scratch, AnnQuery& found) {
  scratch.candidates.finish(found, [&](std::uint32_t row) { return call.segment.ids[row]; });
  scratch.scores.resize(static_cast<std::size_t>(found.count));
  score_rows(call, &scratch.queries[q * static_cast<std::size_t>(call.segment.stride())], found.rows, 0,
             static_cast<std::size_t>(found.count), scratch.scores.data());
  take_hits(found, scratch.scores.data(), call, scratch.hits[q]);
}

// All open lists but the probed ones, for one query.
void scan_others(const Call& call, const AnnBlocks& blocks, std::size_t q, const std::vector<std::uint32_t>& probed, Scratch& scratch) {
  std::vector<bool> seen(static_cast<std::size_t>(call.segment.lists));
  for (std::uint32_t list : probed) seen[list] = true;
  const float reach = scratch.norms[q] * scratch.factors[q] * bound_slack(call.segment.dim);
  for (std::uint32_t list = 0; list < seen.size(); ++list)
    if (!seen[list] && (call.opening.lists[list / kBlockRows] >> list % kBlockRows & 1))
      scan_list(call, blocks, list, kWhole, &scratch.candidates[q], &reach, 1, scratch);
}

void scan_lists(const Call& call, std::size_t count, Scratch& scratch) {
  const Segment& s = call.segment;
  const Entered entered(*call.simd);
  const AnnBlocks blocks = blocks_of(s.codes, s.code_dim(), call.live);
  const int step = static_cast<int>(step_blocks(s)) * kBlockRows;
  probe(call, count, scratch);
  scratch.candidates.start(*call.simd, count, call.way.effort.shortlist, step);
  for (std::size_t q = 0; q < count; ++q) point_at(scratch, q, s.code_dim(), scratch.candidates[q]);
  const bool pays = count >= 8 && count * static_cast<std::size_t>(call.way.effort.probes) >= 2 * static_cast<std::size_t>(s.lists);
  if (call.options.form == Form::kGrouped || (call.options.form == Form::kAuto && pays)) {
    scan_grouped(call, blocks, count, scratch);
  } else {
    scan_single(call, blocks, count, scratch);
  }
  const std::int32_t wanted = static_cast<std::int32_t>(std::min<std::size_t>(static_cast<std::size_t>(call.options.k), call.items));
  for (std::size_t q = 0; q < count; ++q) {
    AnnQuery& found = scratch.candidates[q];
    if (found.count < wanted) scan_others(call, blocks, q, scratch.probed[q], scratch);  // the probed lists held too few
    rerank(call, q, scratch, found);
  }
}

// --- signs -------------------------------------------------------------------------------------------------------------------

constexpr std::size_t kSignBlocks = 32;  // of a step

void scan_signs(const Call& call, std::size_t count, Scratch& scratch) {
  const Segment& s = call.segment;
  const Entered entered(*call.simd);
  const AnnBlocks blocks = blocks_of(s.codes, s.code_dim(), call.live);
  const float* biases = s.codes.biases.empty() ? nullptr : s.codes.biases.data();
  const AnnSigns signs{s.signs.codes.data(), s.signs.factors.data(), biases, call.live, sign_lines(s.dim)};
  const std::size_t wanted = std::min(static_cast<std::size_t>(call.options.k), call.items);
  const auto id_of = [&](std::uint32_t row) { return s.ids[row]; };
  probe(call, count, scratch);
  scratch.candidates.start(*call.simd, count, call.way.effort.shortlist, static_cast<int>(std::max(kSignBlocks, step_blocks(s))) * kBlockRows);
  for (std::size_t q = 0; q < count; ++q) {
    AnnQuery& found = scratch.candidates[q];
    AnnSignQuery query;
    make_sign_tables(&scratch.queries[q * static_cast<std::size_t>(s.stride())], s.dim, scratch.sign_tables, query);
    for (std::size_t i = 0; i < scratch.probed[q].size(); ++i) {
      const std::uint32_t list = scratch.probed[q][i];
      query.base = scratch.probed_scores[q][i] / scratch.factors[q] - (biases ? s.centroids.biases[list] : 0);
      for (std::size_t b = s.list_blocks[list]; b < s.list_blocks[list + 1]; b += kSignBlocks) {
        if (!s.block_norms.empty() && scratch.norms[q] * s.block_norms[b] <= found.threshold) break;
        call.simd->scan_signs(&signs, b, std::min<std::size_t>(s.list_blocks[list + 1], b + kSignBlocks), &query, &found);
        scratch.candidates.make_room(found, id_of);
      }
    }
    if (static_cast<std::size_t>(found.count) < wanted) {  // the probed lists held too few: scan all codes, whose scores have other units
      found.count = 0;
      found.threshold = kMinusInfinity;
      point_at(scratch, q, s.code_dim(), found);
      scan_others(call, blocks, q, {}, scratch);
    }
    rerank(call, q, scratch, found);
  }
}

// --- graph -------------------------------------------------------------------------------------------------------------------

void walk_graph(const Call& call, std::size_t count, Scratch& scratch) {
  const Segment& s = call.segment;
  const Entered entered(*call.simd);
  const AnnBlocks blocks = blocks_of(s.codes, s.code_dim(), call.live);
  probe(call, count, scratch);
  scratch.candidates.start(*call.simd, count, call.way.effort.shortlist, static_cast<int>(step_blocks(s)) * kBlockRows);
  scratch.walk_codes.assign(static_cast<std::size_t>(graph_code_stride(s.dim)), 0);
  for (std::size_t q = 0; q < count; ++q) {
    AnnQuery& found = scratch.candidates[q];
    point_at(scratch, q, s.code_dim(), found);
    std::copy_n(found.codes, s.code_dim(), scratch.walk_codes.data());
    AnnQuery query = found;
    query.codes = scratch.walk_codes.data();
    scratch.walk.run(s, *kernels(call.options.isa).ann_graph, query, scratch.probed[q], call.way.beam);
    for (std::size_t i = 0; i < scratch.walk.size() && found.count < call.way.effort.shortlist; ++i) {
      const std::uint32_t row = scratch.walk.row(i);
      if (call.live[row / kBlockRows] >> row % kBlockRows & 1) found.rows[found.count++] = row;
    }
    if (static_cast<std::size_t>(found.count) < std::min<std::size_t>(static_cast<std::size_t>(call.options.k), call.items)) {
      found.count = 0;  // deleted rows were in the way: scan instead
      scan_others(call, blocks, q, {}, scratch);
    }
    rerank(call, q, scratch, found);
  }
}

// --- rows added since -------------------------------------------------------------------------------------------------------

void scan_delta(const Call& call, std::size_t count, Scratch& scratch) {
  const Snapshot& snapshot = call.snapshot;
  const auto id_of = [&](std::uint32_t row) { return snapshot.delta_id(row); };
  const int stride = call.segment.stride();
  const auto score = call.segment.metric == Metric::kL2 ? call.simd->negative_distance : call.simd->dot;
  scratch.scores.resize(kExactRows);
  scratch.delta.start(*call.simd, count, call.options.k, kExactRows);
  for (std::size_t first = 0; first < snapshot.delta_rows; first += kExactRows) {  // a step never crosses a chunk
    const std::size_t step = std::min(kExactRows, snapshot.delta_rows - first);
    for (std::size_t q = 0; q < count; ++q) {
      score(&scratch.queries[q * static_cast<std::size_t>(stride)], snapshot.delta_vector(first), stride, nullptr, step,
            scratch.scores.data());
      call.simd->collect(scratch.scores.data(), step, static_cast<std::uint32_t>(first), call.delta_live + first / kBlockRows,
                        &scratch.delta[q]);
      scratch.delta.make_room(scratch.delta[q], id_of);
    }
  }
  for (std::size_t q = 0; q < count; ++q)
    for (std::int32_t i = 0; i < scratch.delta[q].count; ++i)
      scratch.hits[q].push_back({scratch.delta[q].scores[i], id_of(scratch.delta[q].rows[i]), scratch.delta[q].rows[i]});
}

// Not inlined: otherwise each use of the scratch asks anew where the thread keeps it.
[[gnu::noinline]] Scratch& thread_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

// Sorts a few hits without branches, by counting for each how many are better. False: too many, or ties, which are sorted by their ids.
bool rank_few(std::vector<Hit>& hits) {
  constexpr std::size_t kMost = 32;
  const std::size_t count = hits.size();
  if (count > kMost) return false;
  float scores[kMost];
  std::int32_t better[kMost] = {0};
  std::fill(std::begin(scores), std::end(scores), kMinusInfinity);
  for (std::size_t i = 0; i < count; ++i) scores[i] = hits[i].score;
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t j = 0; j < kMost; ++j) better[j] += scores[i] > scores[j];
  Hit sorted[kMost];
  std::uint32_t taken = 0;
  for (std::size_t i = 0; i < count; ++i) {
    sorted[better[i]] = hits[i];
    taken |= 1u << better[i];
  }
  if (std::popcount(taken) != static_cast<int>(count)) return false;
  std::copy_n(sorted, count, hits.begin());
  return true;
}

void search_tile(const Call& call, const float* queries, std::size_t count, std::int64_t* ids, float* scores) {
  Scratch& scratch = thread_scratch();
  if (scratch.hits.size() < count) scratch.hits.resize(count);
  for (std::size_t q = 0; q < count; ++q) scratch.hits[q].clear();
  load_queries(call, queries, count, scratch);
  if (call.items > 0) {
    if (call.way.exact) {
      scan_exact(call, count, scratch);
    } else if (call.way.beam > 0) {
      walk_graph(call, count, scratch);
    } else if (call.way.signs) {
      scan_signs(call, count, scratch);
    } else {
      scan_lists(call, count, scratch);
    }
  }
  if (call.delta_items > 0) scan_delta(call, count, scratch);
  const std::size_t k = static_cast<std::size_t>(call.options.k);
  for (std::size_t q = 0; q < count; ++q) {
    std::vector<Hit>& hits = scratch.hits[q];
    const std::size_t found = std::min(k, hits.size());
    if (!rank_few(hits)) std::partial_sort(hits.begin(), hits.begin() + static_cast<std::ptrdiff_t>(found), hits.end());
    for (std::size_t i = 0; i < k; ++i) {
      ids[q * k + i] = i < found ? hits[i].id : -1;
      scores[q * k + i] = i < found ? hits[i].score : kMinusInfinity;
    }
  }
}

// Code products of one tile of queries from which on AMX pays: its unit sleeps, and waking it took longer than fewer products do.
constexpr double kTileProducts = 8e7;

Isa level_for(const Call& call, std::size_t queries) {
  const Segment& s = call.segment;
  if (call.options.isa != Isa::kAmx || s.lists == 0) return call.options.isa;
  const double rows = static_cast<double>(s.rows) * (call.way.beam > 0 || call.way.signs ? 0 : call.way.effort.probes) / s.lists + s.lists;
  return static_cast<double>(queries) * rows * s.dim < kTileProducts ? Isa::kV4 : Isa::kAmx;
}

std::vector<std::uint32_t> rows_of(const LiveMask& mask) {
  std::vector<std::uint32_t> rows;
  for (std::size_t b = 0; b < mask.size(); ++b)
    for (unsigned bits = mask[b]; bits; bits &= bits - 1)
      rows.push_back(static_cast<std::uint32_t>(b * kBlockRows) + static_cast<std::uint32_t>(std::countr_zero(bits)));
  return rows;
}

}  // namespace

const char* search(const Snapshot& snapshot, const SearchPlan& plan, const float* queries, std::size_t count, const SearchOptions& options,
                   const RowMask* mask, std::int64_t* ids, float* scores) {
  const Segment& s = *snapshot.segment;
  const std::size_t items = mask ? mask->base_items : snapshot.live_items;
  const Opening& opening = mask ? mask->opening : *snapshot.opening;
  Call call{snapshot,
            s,
            kernels(options.isa).ann,
            options,
            mask ? mask->base.data() : snapshot.live->data(),
            mask ? mask->delta.data() : snapshot.delta_live->data(),
            items,
            mask ? mask->delta_items : snapshot.delta_live_items,
            {},
            opening,
            choose_way(s, opening, items, plan, options, count, mask != nullptr)};
  const char* how = call.items + call.delta_items == 0 ? "empty" : call.way.name;
  if (call.way.exact && (mask || options.form == Form::kExact) && items > 0 && items * 2 < s.rows) {
    call.subset = rows_of(mask ? mask->base : *snapshot.live);
    how = "exact subset";
  }
  const std::size_t k = static_cast<std::size_t>(options.k), threads = static_cast<std::size_t>(resolve_threads(options.threads));
  const std::size_t room = kTileCandidates / static_cast<std::size_t>(2 * std::max(call.way.effort.shortlist, options.k) + 512);
  const std::size_t most = std::clamp<std::size_t>(room, 16, kTileQueries);
  const std::size_t tile = std::clamp<std::size_t>((count + threads - 1) / threads, 1, most);
  call.simd = kernels(level_for(call, std::min(count, tile))).ann;
  parallel_for(count, tile, options.threads, [&](std::size_t begin, std::size_t end, int) {
    search_tile(call, queries + begin * static_cast<std::size_t>(s.dim), end - begin, ids + begin * k, scores + begin * k);
  });
  return how;
}

}  // namespace aitems::ann
