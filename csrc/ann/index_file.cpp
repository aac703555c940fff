#include "ann/index_file.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "base/section_file.hpp"

namespace aitems::ann {
namespace {

constexpr SectionKind kIndexFile{"AITEMSAN", 4, ErrorKind::kIndexFormat, "index file", 1};
enum Meta { kMetric, kFormat, kDim, kLists, kItems, kRows, kListsAsked, kIterations, kSeed, kAttributes, kMetaSize };
constexpr std::int64_t kAttributesMax = 1024;

std::string attribute_name(std::size_t number) { return std::string(1, 'a').append(std::to_string(number)); }

void check_size(const SectionFile& file, const char* name, std::size_t size, std::size_t expected) {
  if (size != expected)
    file.fail("section '" + std::string(name) + "' holds " + std::to_string(size) + " elements, expected " + std::to_string(expected));
}

template <class T>
Column<T> sized(const SectionFile& file, const char* name, std::size_t expected) {
  Column<T> column = file.column<T>(name);
  check_size(file, name, column.size(), expected);
  return column;
}

// starts[0] = 0, ascending, ends at `end`.
template <class T>
void check_ascending(const SectionFile& file, const std::string& name, const Column<T>& starts, std::size_t end) {
  if (starts.empty() || starts[0] != 0 || starts[starts.size() - 1] != end || !std::is_sorted(starts.data(), starts.data() + starts.size()))
    file.fail("section '" + name + "' is no ascending list of places");
}

CodeTable read_codes(const SectionFile& file, const Segment& s, std::size_t rows, const std::string& prefix) {
  CodeTable table;
  table.codes = sized<std::uint8_t>(file, (prefix + "codes").c_str(), rows * static_cast<std::size_t>(s.code_dim()));
  table.scales = sized<float>(file, (prefix + "scales").c_str(), rows);
  if (s.metric == Metric::kL2) table.biases = sized<float>(file, (prefix + "biases").c_str(), rows);
  return table;
}

// Neighbours are not looked through: a walk stops at one that is no row. Version 2 has `degree` of four bytes a row, and no starts.
Graph read_graph(const SectionFile& file, const Segment& s) {
  Graph graph;
  const Column<std::int64_t> meta = sized<std::int64_t>(file, "g.meta", 3);
  if (s.lists == 0 || meta[0] < 2 || meta[0] > kGraphDegreeMax || meta[1] < 0 || meta[2] < 0) file.fail("its graph has degree " + std::to_string(meta[0]));
  graph.degree = static_cast<int>(meta[0]);
  graph.linked = static_cast<std::size_t>(meta[1]);
  graph.reached = static_cast<std::size_t>(meta[2]);
  const bool packed = file.has("g.starts");
  std::size_t edges = s.rows * static_cast<std::size_t>(graph.degree);
  graph.width = packed && s.rows <= kNarrowRows ? 3 : 4;
  if (packed) {
    graph.starts = sized<std::uint32_t>(file, "g.starts", s.rows + 1);
    edges = graph.starts[s.rows];
    check_ascending(file, "g.starts", graph.starts, edges);
  }
  const std::size_t width = static_cast<std::size_t>(graph.width);
  graph.neighbours = sized<std::uint8_t>(file, "g.neighbours", edges * width + kEdgeBytes - width);
  graph.codes = sized<std::uint8_t>(file, "g.codes", s.rows * static_cast<std::size_t>(graph_code_stride(s.dim)));
  graph.levels = sized<std::uint8_t>(file, "g.levels", s.rows);
  graph.scales = sized<float>(file, "g.scales", 256);
  if (s.metric == Metric::kL2) graph.biases = sized<float>(file, "g.biases", s.rows);
  return graph;
}

void check_rows(const SectionFile& file, const Segment& s) {
  std::size_t items = 0;
  for (std::size_t b = 0; b < s.blocks(); ++b) items += static_cast<std::size_t>(std::popcount(s.present[b]));
  if (items != s.items) file.fail("it marks " + std::to_string(items) + " rows as present, expected " + std::to_string(s.items));
  std::int64_t last = -1;
  for (std::size_t i = 0; i < s.items; ++i) {
    const std::uint32_t row = s.by_id[i];
    if (row >= s.rows || !(s.present[row / kBlockRows] >> row % kBlockRows & 1) || s.ids[row] <= last)
      file.fail("its ids are not distinct, ascending and present");
    last = s.ids[row];
  }
}

// In the order in which they are written.
template <class Plan>
auto parts_of(Plan& plan) {
  return std::array{&plan.target, &plan.filtered, &plan.walk, &plan.walk_filtered, &plan.signs, &plan.signs_filtered};
}

void read_plan(const SectionFile& file, SearchPlan& plan) {
  const Column<std::int32_t> values = file.column<std::int32_t>("plan");
  if (values.size() % 3 != 0) file.fail("section 'plan' does not hold triples");
  const auto parts = parts_of(plan);
  std::size_t part = 0;
  for (std::size_t i = 0; i < values.size(); i += 3) {
    const Effort effort{values[i], values[i + 1], values[i + 2]};
    if (effort.k == 0 && effort.probes == 0 && effort.shortlist == 0 && part + 1 < parts.size()) {
      ++part;
      continue;
    }
    if (effort.k < 1 || effort.probes < 1 || effort.shortlist < 1 || (!parts[part]->empty() && effort.k <= parts[part]->back().k))
      file.fail("section 'plan' holds an effort that is none");
    parts[part]->push_back(effort);
  }
}

}  // namespace

void save_index(const Index& index, const std::string& notes, const std::string& path) {
  const auto now = index.snapshot();
  const Segment& s = *now->segment;
  const BuildOptions& options = index.options();
  if (now->delta_rows > 0 || now->live_items != s.items)
    throw Error(ErrorKind::kInvalidInput, "the index was written to since compact(); call compact() and save again");
  const std::int64_t meta[kMetaSize] = {static_cast<std::int64_t>(s.metric),
                                        static_cast<std::int64_t>(s.format),
                                        s.dim,
                                        s.lists,
                                        static_cast<std::int64_t>(s.items),
                                        static_cast<std::int64_t>(s.rows),
                                        options.lists,
                                        options.iterations,
                                        static_cast<std::int64_t>(options.seed),
                                        static_cast<std::int64_t>(s.attributes.size())};
  std::vector<std::int32_t> efforts;
  const SearchPlan plan = index.plan();
  for (const auto* part : parts_of(plan)) {
    if (part != &plan.target) efforts.insert(efforts.end(), {0, 0, 0});
    for (const Effort& e : *part) efforts.insert(efforts.end(), {e.k, e.probes, e.shortlist});
  }

  SectionWriter writer;
  writer.add("meta", meta, sizeof(meta));
  writer.add("plan", efforts.data(), efforts.size() * sizeof(std::int32_t));
  writer.add("notes", notes.data(), notes.size());
  writer.add("ids", s.ids);
  writer.add("by_id", s.by_id);
  writer.add("present", s.present);
  if (s.format == VectorFormat::kFloat) {
    writer.add("vectors", s.vectors);
  } else {
    writer.add("halves", s.halves);
  }
  if (s.lists > 0) {
    writer.add("list_blocks", s.list_blocks);
    if (!s.block_norms.empty()) writer.add("norms", s.block_norms);
    for (const auto& [prefix, table] : {std::pair<std::string, const CodeTable*>{"", &s.codes}, {"c.", &s.centroids}}) {
      writer.add(prefix + "codes", table->codes);
      writer.add(prefix + "scales", table->scales);
      if (s.metric == Metric::kL2) writer.add(prefix + "biases", table->biases);
    }
  }
  if (!s.signs.empty()) {
    writer.add("s.codes", s.signs.codes);
    writer.add("s.factors", s.signs.factors);
  }
  const std::int64_t graph_meta[] = {s.graph.degree, static_cast<std::int64_t>(s.graph.linked), static_cast<std::int64_t>(s.graph.reached)};
  if (!s.graph.empty()) {
    writer.add("g.meta", graph_meta, sizeof(graph_meta));
    if (!s.graph.starts.empty()) writer.add("g.starts", s.graph.starts);
    writer.add("g.neighbours", s.graph.neighbours);
    writer.add("g.codes", s.graph.codes);
    writer.add("g.levels", s.graph.levels);
    writer.add("g.scales", s.graph.scales);
    if (s.metric == Metric::kL2) writer.add("g.biases", s.graph.biases);
  }
  for (std::size_t a = 0; a < s.attributes.size(); ++a) {
    writer.add(attribute_name(a) + ".starts", s.attributes[a].starts);
    writer.add(attribute_name(a) + ".rows", s.attributes[a].rows);
  }
  writer.write(path, kIndexFile);
}

OpenedIndex open_index(const std::string& path, bool verify) {
  const auto file = SectionFile::open(path, kIndexFile, verify);
  const Column<std::int64_t> meta = sized<std::int64_t>(*file, "meta", kMetaSize);
  const auto in_range = [&](Meta field, std::int64_t least, std::int64_t most, const char* name) {
    if (meta[field] < least || meta[field] > most) file->fail(std::string(name) + " is " + std::to_string(meta[field]));
    return meta[field];
  };
  auto segment = std::make_shared<Segment>();
  Segment& s = *segment;
  s.file = file;
  s.metric = static_cast<Metric>(in_range(kMetric, 0, 2, "its metric"));
  s.format = static_cast<VectorFormat>(in_range(kFormat, 0, 1, "its vector format"));
  s.dim = static_cast<int>(in_range(kDim, 1, kDimMax, "its dimension"));
  s.items = static_cast<std::size_t>(in_range(kItems, 0, kRowsMax, "its number of items"));
  s.rows = static_cast<std::size_t>(in_range(kRows, 0, kRowsMax, "its number of rows"));
  s.lists = static_cast<int>(in_range(kLists, 0, static_cast<std::int64_t>(s.items), "its number of lists"));
  if (s.rows % kBlockRows != 0 || s.rows < s.items) file->fail("its rows are no whole blocks");
  s.ids = sized<std::int64_t>(*file, "ids", s.rows);
  s.by_id = sized<std::uint32_t>(*file, "by_id", s.items);
  s.present = sized<std::uint16_t>(*file, "present", s.blocks());
  const std::size_t values = s.rows * static_cast<std::size_t>(s.stride());
  if (s.format == VectorFormat::kFloat) {
    s.vectors = sized<float>(*file, "vectors", values);
  } else {
    s.halves = sized<std::uint16_t>(*file, "halves", values);
  }
  check_rows(*file, s);
  if (s.lists > 0) {
    const std::size_t lists = static_cast<std::size_t>(s.lists);
    s.list_blocks = sized<std::uint32_t>(*file, "list_blocks", lists + 1);
    check_ascending(*file, "list_blocks", s.list_blocks, s.blocks());
    if (s.metric == Metric::kInnerProduct) s.block_norms = sized<float>(*file, "norms", s.blocks());
    s.codes = read_codes(*file, s, s.rows, "");
    s.centroids = read_codes(*file, s, (lists + kBlockRows - 1) / kBlockRows * kBlockRows, "c.");
  }
  if (file->has("s.codes")) {
    if (s.lists == 0 || s.dim > kSignDimMax) file->fail("it has signs, but no lists of at most " + std::to_string(kSignDimMax) + " dimensions");
    s.signs.codes = sized<std::uint8_t>(*file, "s.codes", s.blocks() * static_cast<std::size_t>(sign_lines(s.dim)) * 64);
    s.signs.factors = sized<float>(*file, "s.factors", s.rows);
  }
  if (file->has("g.meta")) s.graph = read_graph(*file, s);
  const std::int64_t attributes = in_range(kAttributes, 0, kAttributesMax, "its number of attributes");
  for (std::int64_t a = 0; a < attributes; ++a) {
    const std::string name = attribute_name(static_cast<std::size_t>(a));
    Postings postings{file->column<std::uint64_t>(name + ".starts"), file->column<std::uint32_t>(name + ".rows")};
    check_ascending(*file, name + ".starts", postings.starts, postings.rows.size());
    for (std::size_t i = 0; i < postings.rows.size(); ++i)
      if (postings.rows[i] >= s.rows) file->fail("section '" + name + ".rows' names a row that is not there");
    s.attributes.push_back(std::move(postings));
  }
  SearchPlan plan;
  read_plan(*file, plan);
  const BuildOptions options{s.metric,
                             s.format,
                             static_cast<int>(in_range(kListsAsked, 0, 1 << 20, "its number of lists asked for")),
                             static_cast<int>(in_range(kIterations, 1, 1 << 20, "its number of iterations")),
                             static_cast<std::uint64_t>(meta[kSeed]),
                             1,
                             s.graph.degree,
                             !s.signs.empty()};
  const Column<char> notes = file->column<char>("notes");
  return {std::make_unique<Index>(std::move(segment), options, std::move(plan)), std::string(notes.data(), notes.size())};
}

}  // namespace aitems::ann
