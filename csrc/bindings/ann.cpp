#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "ann/check.hpp"
#include "ann/index.hpp"
#include "ann/index_file.hpp"
#include "ann/merge.hpp"
#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "bindings/os_errors.hpp"
#include "bindings/register.hpp"

namespace py = pybind11;

namespace aitems::bindings {
namespace {

using ann::Index;
using Floats = py::array_t<float, py::array::c_style>;
using Ids = py::array_t<std::int64_t, py::array::c_style>;

std::string shape_of(const py::array& array) {
  std::string text = "(";
  for (py::ssize_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + (array.ndim() == 1 ? ",)" : ")");
}

// Rows of float32; dim 0: any. Contiguous as they are, otherwise copied.
Floats float_rows(const py::object& given, int dim, const char* what) {
  const std::string wanted = std::string(what) + " must be a float32 array of shape (n, " + (dim ? std::to_string(dim) : "dim") + ")";
  if (!py::isinstance<py::array>(given))
    throw Error(ErrorKind::kInvalidInput, wanted + ", got " + std::string(py::str(py::type::of(given).attr("__name__"))));
  const py::array array = py::reinterpret_borrow<py::array>(given);
  if (!py::isinstance<py::array_t<float>>(array))
    throw Error(ErrorKind::kInvalidInput, wanted + ", got dtype " + std::string(py::str(array.dtype())) + "; call .astype(\"float32\")");
  if (array.ndim() != 2 || (dim && array.shape(1) != dim)) throw Error(ErrorKind::kInvalidInput, wanted + ", got shape " + shape_of(array));
  if (array.shape(1) < 1 || array.shape(1) > ann::kDimMax)
    throw Error(ErrorKind::kInvalidInput, std::string(what) + " must have 1 to " + std::to_string(ann::kDimMax) + " dimensions, got shape " + shape_of(array));
  return Floats::ensure(array);
}

Ids id_column(const py::object& given, std::size_t count) {
  if (!py::isinstance<py::array_t<std::int64_t>>(given)) throw Error(ErrorKind::kInvalidInput, "ids must be an int64 array");
  Ids ids = Ids::ensure(given);
  if (ids.ndim() != 1 || static_cast<std::size_t>(ids.shape(0)) != count)
    throw Error(ErrorKind::kInvalidInput, "ids must have shape (" + std::to_string(count) + ",), one a vector, got " + shape_of(ids));
  return ids;
}

// [(starts, values, num_values)], one an attribute.
std::vector<ann::AttributeColumn> attribute_columns(const py::list& given, std::size_t count) {
  std::vector<ann::AttributeColumn> columns;
  for (const py::handle& item : given) {
    const auto [starts, values, num_values] =
        item.cast<std::tuple<std::vector<std::uint64_t>, std::vector<std::uint32_t>, std::uint32_t>>();
    bool sound = starts.size() == count + 1 && starts.front() == 0 && starts.back() == values.size();
    for (std::size_t i = 0; sound && i < count; ++i) sound = starts[i] <= starts[i + 1];
    for (std::size_t i = 0; sound && i < values.size(); ++i) sound = values[i] < num_values;
    if (!sound) throw Error(ErrorKind::kInvalidInput, "attribute columns do not fit the vectors");
    columns.push_back({starts, values, num_values});
  }
  return columns;
}

ann::FilterProgram program_of(const py::list& given) {
  ann::FilterProgram program;
  for (const py::handle& item : given) {
    const py::tuple node = py::cast<py::tuple>(item);
    ann::FilterNode out{static_cast<ann::FilterNode::Kind>(node[0].cast<int>()), 0, {}, {}, {}};
    switch (out.kind) {
      case ann::FilterNode::Kind::kValues:
        out.attribute = node[1].cast<std::int32_t>();
        out.values = node[2].cast<std::vector<std::uint32_t>>();
        break;
      case ann::FilterNode::Kind::kIds: {
        const auto ids = node[1].cast<Ids>();
        out.ids.assign(ids.data(), ids.data() + ids.size());
        break;
      }
      case ann::FilterNode::Kind::kBitmap: {
        const auto bits = node[1].cast<py::array_t<std::uint8_t, py::array::c_style>>();
        out.bitmap.assign(bits.data(), bits.data() + bits.size());
        break;
      }
      case ann::FilterNode::Kind::kAnd:
      case ann::FilterNode::Kind::kOr:
      case ann::FilterNode::Kind::kNot: break;
      default: throw Error(ErrorKind::kInvalidInput, "filter program: unknown operation " + std::to_string(static_cast<int>(out.kind)));
    }
    program.push_back(std::move(out));
  }
  return program;
}

using EffortTuple = std::tuple<int, int, int>;

std::vector<ann::Effort> efforts_of(const std::vector<EffortTuple>& given) {
  std::vector<ann::Effort> efforts;
  for (const auto& [k, probes, shortlist] : given) {
    if (k < 1 || probes < 1 || shortlist < 1 || (!efforts.empty() && k <= efforts.back().k))
      throw Error(ErrorKind::kInvalidInput, "search plan: k must ascend, and k, probes and shortlist be 1 or more");
    efforts.push_back({k, probes, shortlist});
  }
  return efforts;
}

std::vector<EffortTuple> tuples_of(const std::vector<ann::Effort>& efforts) {
  std::vector<EffortTuple> out;
  for (const ann::Effort& e : efforts) out.emplace_back(e.k, e.probes, e.shortlist);
  return out;
}

std::shared_ptr<Index> build(const py::object& vectors, const py::object& ids, const py::list& attributes, int metric, int format, int lists,
                             int iterations, std::uint64_t seed, int threads, int degree, bool signs) {
  const Floats rows = float_rows(vectors, 0, "vectors");
  const std::size_t count = static_cast<std::size_t>(rows.shape(0));
  const int dim = static_cast<int>(rows.shape(1));
  const Ids keys = id_column(ids, count);
  const auto columns = attribute_columns(attributes, count);
  if (metric < 0 || metric > 2 || format < 0 || format > 1) throw Error(ErrorKind::kInvalidInput, "unknown metric or vector format");
  if (lists < 0 || iterations < 1) throw Error(ErrorKind::kInvalidInput, "lists must be 0 or more and iterations 1 or more");
  if (degree != 0 && (degree < 2 || degree > ann::kGraphDegreeMax || lists == 0))
    throw Error(ErrorKind::kInvalidInput, "degree must be 2 to " + std::to_string(ann::kGraphDegreeMax) + ", with lists of 1 or more; got " + std::to_string(degree));
  const ann::BuildOptions options{static_cast<ann::Metric>(metric), static_cast<ann::VectorFormat>(format), lists, iterations, seed, resolve_threads(threads), degree, signs};
  py::gil_scoped_release release;
  ann::check_vectors(rows.data(), count, dim, "vector");
  ann::check_ids(keys.data(), count);
  std::vector<float> unit;
  if (options.metric == ann::Metric::kCosine) unit = ann::normalized(rows.data(), count, dim);
  return std::make_shared<Index>(ann::build_segment(unit.empty() ? rows.data() : unit.data(), count, dim, keys.data(), columns, options), options,
                                 ann::SearchPlan{});
}

py::tuple search(const Index& index, const py::object& queries, std::int64_t k, const std::optional<py::list>& program, int probes,
                 int shortlist, int threads, int form, const std::string& isa, int beam) {
  const Floats rows = float_rows(queries, index.dim(), "queries");
  constexpr std::int64_t kMost = 1 << 20;
  if (k < 1 || k > kMost) throw Error(ErrorKind::kInvalidInput, "k must be 1 to " + std::to_string(kMost) + ", got " + std::to_string(k));
  if (probes < 0 || shortlist < 0 || beam < 0) throw Error(ErrorKind::kInvalidInput, "probes, shortlist and beam must be 1 or more");
  const std::size_t count = static_cast<std::size_t>(rows.shape(0));
  ann::SearchOptions options;
  options.k = static_cast<int>(k);
  options.probes = probes;
  options.shortlist = shortlist;
  options.beam = beam;
  options.threads = resolve_threads(threads);
  if (form < 0 || form > static_cast<int>(ann::Form::kSigns)) throw Error(ErrorKind::kInvalidInput, "unknown form " + std::to_string(form));
  options.form = static_cast<ann::Form>(form);
  if (options.form == ann::Form::kGraph && index.snapshot()->segment->graph.empty() && index.snapshot()->segment->lists > 0)
    throw Error(ErrorKind::kInvalidInput, "this index has no graph; build it with kind='graph'");
  if (options.form == ann::Form::kSigns && index.snapshot()->segment->signs.empty() && index.snapshot()->segment->lists > 0)
    throw Error(ErrorKind::kInvalidInput, "this index has no signs; build it with signs=True");
  options.isa = require_isa(isa);
  const ann::FilterProgram filter = program ? program_of(*program) : ann::FilterProgram{};
  Ids ids({static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(k)});
  Floats scores({static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(k)});
  std::int64_t* out_ids = ids.mutable_data();
  float* out_scores = scores.mutable_data();
  std::string how;
  {
    py::gil_scoped_release release;
    ann::check_vectors(rows.data(), count, index.dim(), "query");
    std::vector<float> unit;
    if (index.options().metric == ann::Metric::kCosine) unit = ann::normalized(rows.data(), count, index.dim());
    how = index.search(unit.empty() ? rows.data() : unit.data(), count, options, program ? &filter : nullptr, out_ids, out_scores);
  }
  return py::make_tuple(ids, scores, how);
}

std::size_t upsert(Index& index, const py::object& ids, const py::object& vectors, const py::list& attributes) {
  const Floats rows = float_rows(vectors, index.dim(), "vectors");
  const std::size_t count = static_cast<std::size_t>(rows.shape(0));
  const Ids keys = id_column(ids, count);
  const auto columns = attribute_columns(attributes, count);
  py::gil_scoped_release release;
  ann::check_vectors(rows.data(), count, index.dim(), "vector");
  ann::check_ids(keys.data(), count);
  std::vector<float> unit;
  if (index.options().metric == ann::Metric::kCosine) unit = ann::normalized(rows.data(), count, index.dim());
  return index.upsert(unit.empty() ? rows.data() : unit.data(), keys.data(), count, columns);
}

py::dict stats(const Index& index) {
  const auto now = index.snapshot();
  const ann::Segment& s = *now->segment;
  py::dict out;
  out["items"] = now->size();
  out["dim"] = s.dim;
  out["metric"] = static_cast<int>(s.metric);
  out["format"] = static_cast<int>(s.format);
  out["lists"] = s.lists;
  out["lists_asked"] = index.options().lists;
  out["rows"] = s.rows;
  out["degree"] = s.graph.degree;
  out["linked"] = s.graph.linked;
  out["unreachable"] = s.graph.empty() ? 0 : s.items - s.graph.reached;
  out["graph_bytes"] = s.graph.bytes();
  out["sign_bytes"] = s.signs.bytes();
  out["deleted_rows"] = s.items - now->live_items;
  out["added_rows"] = now->delta_rows;
  out["bytes"] = s.bytes() + now->chunks.size() * ann::kDeltaChunkRows * (static_cast<std::size_t>(s.stride()) * sizeof(float) + sizeof(std::int64_t));
  return out;
}

py::tuple vectors_of(const Index& index, const Ids& ids) {
  const std::size_t count = static_cast<std::size_t>(ids.size());
  Floats rows({ids.size(), static_cast<py::ssize_t>(index.dim())});
  std::fill_n(rows.mutable_data(), rows.size(), 0.f);
  const std::int64_t* keys = ids.data();
  float* out = rows.mutable_data();
  std::vector<bool> there;
  {
    py::gil_scoped_release release;
    there = index.vectors(keys, count, out);
  }
  py::array_t<bool> found(ids.size());
  std::copy(there.begin(), there.end(), found.mutable_data());
  return py::make_tuple(rows, found);
}

// False if it was cancelled.
bool build_merge(ann::Merge& merge, int lists, int degree, bool signs, int threads) {
  if (lists < 0 || degree < 0) throw Error(ErrorKind::kInvalidInput, "lists and degree must be 0 or more");
  threads = resolve_threads(threads);
  py::gil_scoped_release release;
  try {
    merge.build(lists, degree, signs, threads);
  } catch (const Cancelled&) {
    return false;
  }
  return true;
}

// What the slow twin of the walk needs, copied.
py::dict graph(const Index& index) {
  const auto now = index.snapshot();
  const ann::Segment& s = *now->segment;
  const auto array = [](const auto& column) { return py::array(static_cast<py::ssize_t>(column.size()), column.data()); };
  py::dict out;
  const py::ssize_t degree = s.graph.degree, rows = static_cast<py::ssize_t>(s.rows);
  py::array_t<std::uint32_t> neighbours({rows, degree});
  std::fill_n(neighbours.mutable_data(), neighbours.size(), ann::kNoRow);
  for (std::size_t row = 0; row < s.rows && degree > 0; ++row) {
    const auto [first, last] = s.graph.edges(row);
    for (std::size_t edge = first; edge < last; ++edge) neighbours.mutable_at(row, edge - first) = s.graph.neighbour(edge);
  }
  out["neighbours"] = neighbours;
  out["codes"] = array(s.graph.codes);
  out["levels"] = array(s.graph.levels);
  out["scales"] = array(s.graph.scales);
  out["biases"] = array(s.graph.biases);
  out["ids"] = array(s.ids);
  out["list_blocks"] = array(s.list_blocks);
  out["centroid_codes"] = array(s.centroids.codes);
  out["centroid_scales"] = array(s.centroids.scales);
  out["centroid_biases"] = array(s.centroids.biases);
  return out;
}

py::array_t<std::int64_t> live_ids(const Index& index) {
  const std::vector<std::int64_t> ids = index.live_ids();
  return py::array_t<std::int64_t>(static_cast<py::ssize_t>(ids.size()), ids.data());
}

void save(const Index& index, const std::string& path, const py::bytes& notes) {
  const std::string held = notes;
  with_os_errors(path, [&] { ann::save_index(index, held, path); });
}

py::tuple open_file(const std::string& path, bool verify) {
  ann::OpenedIndex opened = with_os_errors(path, [&] { return ann::open_index(path, verify); });
  return py::make_tuple(py::cast(std::shared_ptr<Index>(std::move(opened.index))), py::bytes(opened.notes));
}

}  // namespace

void register_ann(py::module_& module) {
  py::module_ m = module.def_submodule("ann", "Nearest-neighbour index. Private: use aitems_engine.ann.");
  py::class_<ann::Merge>(m, "Merge")
      .def_property_readonly("items", &ann::Merge::items)
      .def_property_readonly("built", &ann::Merge::built)
      .def("build", &build_merge, py::arg("lists"), py::arg("degree"), py::arg("signs"), py::arg("threads"))
      .def("cancel", &ann::Merge::cancel);
  py::class_<Index, std::shared_ptr<Index>>(m, "Index")
      .def_static("build", &build, py::arg("vectors"), py::arg("ids"), py::arg("attributes"), py::arg("metric"), py::arg("format"),
                  py::arg("lists"), py::arg("iterations"), py::arg("seed"), py::arg("threads"), py::arg("degree") = 0, py::arg("signs") = false)
      .def("search", &search, py::arg("queries"), py::arg("k"), py::arg("program"), py::arg("probes"), py::arg("shortlist"),
           py::arg("threads"), py::arg("form"), py::arg("isa"), py::arg("beam") = 0)
      .def("upsert", &upsert, py::arg("ids"), py::arg("vectors"), py::arg("attributes"))
      .def(
          "delete",
          [](Index& index, const Ids& ids) {
            const std::size_t count = static_cast<std::size_t>(ids.size());
            py::gil_scoped_release release;
            return index.erase(ids.data(), count);
          },
          py::arg("ids"))
      .def("vectors", &vectors_of, py::arg("ids"))
      .def("begin_merge", [](const Index& index) { return std::make_unique<ann::Merge>(index); })
      .def(
          "adopt",
          [](Index& index, const ann::Merge& merge) {
            if (!merge.built()) throw Error(ErrorKind::kInvalidInput, "the merge was not built");
            index.adopt(merge.from(), *merge.built());
          },
          py::arg("merge"), py::call_guard<py::gil_scoped_release>())
      .def("save", &save, py::arg("path"), py::arg("notes"))
      .def_static("open", &open_file, py::arg("path"), py::arg("verify"))
      .def("live_ids", &live_ids)
      .def("stats", &stats)
      .def("graph", &graph)
      .def("plan",
           [](const Index& index) {
             const ann::SearchPlan plan = index.plan();
             return std::make_tuple(tuples_of(plan.target), tuples_of(plan.filtered), tuples_of(plan.walk), tuples_of(plan.walk_filtered),
                                    tuples_of(plan.signs), tuples_of(plan.signs_filtered));
           })
      .def(
          "set_plan",
          [](Index& index, const std::vector<EffortTuple>& target, const std::vector<EffortTuple>& filtered,
             const std::vector<EffortTuple>& walk, const std::vector<EffortTuple>& walk_filtered, const std::vector<EffortTuple>& signs,
             const std::vector<EffortTuple>& signs_filtered) {
            index.set_plan({efforts_of(target), efforts_of(filtered), efforts_of(walk), efforts_of(walk_filtered), efforts_of(signs),
                            efforts_of(signs_filtered)});
          },
          py::arg("target"), py::arg("filtered"), py::arg("walk") = std::vector<EffortTuple>{},
          py::arg("walk_filtered") = std::vector<EffortTuple>{}, py::arg("signs") = std::vector<EffortTuple>{},
          py::arg("signs_filtered") = std::vector<EffortTuple>{});
}

}  // namespace aitems::bindings
