#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <functional>
#include <optional>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "batch/calibration.hpp"
#include "batch/candidates.hpp"
#include "batch/features.hpp"
#include "bindings/register.hpp"

namespace py = pybind11;

namespace aitems::bindings {
namespace {

using batch::FeatureTable;
using Ints = py::array_t<std::int32_t, py::array::c_style>;
using Longs = py::array_t<std::int64_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

std::string shape_of(const py::array& array) {
  std::string text = "(";
  for (py::ssize_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + (array.ndim() == 1 ? ",)" : ")");
}

void require_shape(const py::array& array, std::initializer_list<std::size_t> shape, const char* what) {
  bool same = array.ndim() == static_cast<py::ssize_t>(shape.size());
  std::string wanted = "(";
  for (py::ssize_t axis = 0; const std::size_t size : shape) {
    same = same && array.shape(axis) == static_cast<py::ssize_t>(size);
    wanted += (axis++ ? ", " : "") + std::to_string(size);
  }
  if (!same) throw Error(ErrorKind::kInvalidInput, std::string(what) + " must have shape " + wanted + (shape.size() == 1 ? ",)" : ")") + ", got " + shape_of(array));
}

template <class T>
std::vector<const T*> columns_of(const std::vector<py::array_t<T, py::array::c_style>>& arrays, std::size_t rows, const char* what) {
  std::vector<const T*> columns;
  for (const auto& array : arrays) {
    require_shape(array, {rows}, what);
    columns.push_back(array.data());
  }
  return columns;
}

std::shared_ptr<FeatureTable> make(const std::vector<Ints>& codes, const std::vector<Ints>& matches, const std::vector<Floats>& statics,
                                   const std::vector<Floats>& statistics, const std::vector<Floats>& numbers, const Longs& registered_at,
                                   const std::vector<double>& half_lives_ms, const std::vector<int>& last_codes, int contexts, bool hour, bool weekday, std::int64_t utc_offset_ms,
                                   std::int32_t position_max, std::int32_t position_serving, bool age, bool recency, bool length, int history_max,
                                   const std::vector<float>& center, const std::vector<float>& scale) {
  if (registered_at.ndim() != 1 || registered_at.size() < 1)
    throw Error(ErrorKind::kInvalidInput, "registered_at must have one value an item and one for unknown items, got shape " + shape_of(registered_at));
  const auto rows = static_cast<std::size_t>(registered_at.size());
  const batch::ItemColumns columns{columns_of(codes, rows, "codes"),           columns_of(matches, rows, "matches"), columns_of(statics, rows, "statics"),
                                   columns_of(statistics, rows, "statistics"), columns_of(numbers, rows, "numbers"), registered_at.data()};
  const batch::FeaturePlan plan{half_lives_ms, last_codes, contexts, hour, weekday, utc_offset_ms, position_max, position_serving,
                                age,           recency,  length, history_max, center,  scale};
  py::gil_scoped_release release;
  return std::make_shared<FeatureTable>(plan, rows - 1, columns);
}

void gather(const FeatureTable& table, const Ints& history_items, const Longs& history_times, const Longs& begins, const Longs& ends,
            const Longs& now, const Ints& contexts, const Ints& candidates, const Longs& candidate_splits, Ints& codes, Floats& dense,
            const std::optional<Floats>& statistics, const std::optional<Ints>& positions, int threads) {
  const auto count = static_cast<std::size_t>(now.size()), rows = static_cast<std::size_t>(candidates.size());
  const auto width = [](int columns) { return static_cast<std::size_t>(columns); };
  const auto events = static_cast<std::size_t>(history_items.size());
  require_shape(history_items, {events}, "history_items");
  require_shape(history_times, {events}, "history_times");
  require_shape(now, {count}, "now");
  require_shape(begins, {count}, "begins");
  require_shape(ends, {count}, "ends");
  require_shape(contexts, {count, width(table.contexts())}, "contexts");
  require_shape(candidates, {rows}, "candidates");
  require_shape(candidate_splits, {count + 1}, "candidate_splits");
  require_shape(codes, {rows, width(table.codes())}, "out codes");
  require_shape(dense, {rows, width(table.dense())}, "out dense");
  if (statistics) require_shape(*statistics, {rows, width(table.statistics())}, "statistics");
  if (positions) require_shape(*positions, {rows}, "positions");
  const batch::Requests requests{count,           history_items.data(), history_times.data(),    begins.data(),
                                 ends.data(),     now.data(),           contexts.data(),         candidates.data(),
                                 candidate_splits.data(), statistics ? statistics->data() : nullptr, positions ? positions->data() : nullptr};
  threads = resolve_threads(threads);
  std::int32_t* out_codes = codes.mutable_data();
  float* out_dense = dense.mutable_data();
  py::gil_scoped_release release;
  table.check(requests, events, rows);
  table.gather(requests, out_codes, out_dense, threads);
}

using Flags = py::array_t<bool, py::array::c_style>;

// One list of items a row of the batch.
batch::Lists lists_of(const Longs& splits, const Ints& items, const char* what) {
  const auto count = static_cast<std::size_t>(items.size());
  require_shape(items, {count}, what);
  if (splits.ndim() != 1 || splits.size() < 1) throw Error(ErrorKind::kInvalidInput, std::string(what) + ": splits must have one value more than rows, got shape " + shape_of(splits));
  const std::int64_t* at = splits.data();
  for (py::ssize_t i = 0; i + 1 < splits.size(); ++i)
    if (at[i + 1] < at[i]) throw Error(ErrorKind::kInvalidInput, std::string(what) + ": splits must not fall");
  if (at[0] != 0 || at[splits.size() - 1] != static_cast<std::int64_t>(count))
    throw Error(ErrorKind::kInvalidInput, std::string(what) + ": splits must go from 0 to " + std::to_string(count));
  return {at, items.data()};
}

Flags contained(const Longs& splits, const Ints& items, const Longs& history_splits, const Ints& history_items) {
  const batch::Lists lists = lists_of(splits, items, "items"), histories = lists_of(history_splits, history_items, "histories");
  if (splits.size() != history_splits.size()) throw Error(ErrorKind::kInvalidInput, "items and histories must be of as many rows");
  Flags out(items.size());
  batch::contained(static_cast<std::size_t>(splits.size() - 1), lists, histories, reinterpret_cast<std::uint8_t*>(out.mutable_data()));
  return out;
}

py::tuple found_of(std::size_t rows, std::size_t k, const std::function<void(batch::Found)>& fill) {
  const auto shape = {static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(k)};
  Ints items(shape);
  Floats scores(shape);
  const batch::Found out{items.mutable_data(), scores.mutable_data(), k};
  {
    py::gil_scoped_release release;
    fill(out);
  }
  return py::make_tuple(items, scores);
}

py::tuple without_seen(const Ints& items, const Floats& scores, const std::optional<std::pair<Longs, Ints>>& histories, std::size_t k) {
  if (items.ndim() != 2) throw Error(ErrorKind::kInvalidInput, "items must be 2-D, got shape " + shape_of(items));
  const auto listed = static_cast<std::size_t>(items.shape(0)), width = static_cast<std::size_t>(items.shape(1));
  require_shape(scores, {listed, width}, "scores");
  batch::Lists seen{nullptr, nullptr};
  std::size_t rows = listed;
  if (histories) {
    seen = lists_of(histories->first, histories->second, "histories");
    rows = static_cast<std::size_t>(histories->first.size() - 1);
    if (listed != rows && listed != 1) throw Error(ErrorKind::kInvalidInput, "there must be one list for all histories or one for each, got " + std::to_string(listed) + " for " + std::to_string(rows));
  }
  const std::int32_t* const from = items.data();
  const float* const of = scores.data();
  return found_of(rows, k, [&](batch::Found out) { batch::without_seen(rows, from, of, width, listed == 1 ? 0 : width, seen, out); });
}

py::tuple similar_items(const Longs& splits, const Ints& items, const Floats& weights, const Longs& similar_splits, const Ints& similar,
                        const Floats& similar_weights, std::size_t k, bool exclude_seen, const std::optional<Flags>& allowed) {
  const batch::Lists histories = lists_of(splits, items, "histories");
  require_shape(weights, {static_cast<std::size_t>(items.size())}, "weights");
  require_shape(similar_weights, {static_cast<std::size_t>(similar.size())}, "similar_weights");
  for (py::ssize_t i = 0; i < items.size(); ++i)
    if (items.data()[i] < 0 || items.data()[i] + 1 >= similar_splits.size()) throw Error(ErrorKind::kInvalidInput, "histories must hold items that have neighbours, got " + std::to_string(items.data()[i]));
  const batch::Neighbours neighbours{similar_splits.data(), similar.data(), similar_weights.data()};
  const float* const own = weights.data();
  const std::uint8_t* const flags = allowed ? reinterpret_cast<const std::uint8_t*>(allowed->data()) : nullptr;
  const auto rows = static_cast<std::size_t>(splits.size() - 1);
  return found_of(rows, k, [&](batch::Found out) { batch::similar_items(rows, histories, own, neighbours, exclude_seen, flags, out); });
}

py::tuple merge(const std::vector<std::tuple<Ints, Floats, double, std::int64_t>>& found, bool reciprocal, std::size_t budget) {
  std::vector<batch::Source> sources;
  std::size_t rows = 0, all = 0;
  for (const auto& [items, scores, weight, quota] : found) {
    if (items.ndim() != 2) throw Error(ErrorKind::kInvalidInput, "items must be 2-D, got shape " + shape_of(items));
    if (sources.empty()) rows = static_cast<std::size_t>(items.shape(0));
    const auto width = static_cast<std::size_t>(items.shape(1));
    require_shape(items, {rows, width}, "items");
    require_shape(scores, {rows, width}, "scores");
    sources.push_back({items.data(), scores.data(), width, weight, quota});
    all += width;
  }
  const std::size_t most = rows * std::min(budget, all), count = sources.size();
  Longs splits(static_cast<py::ssize_t>(rows + 1)), bits(static_cast<py::ssize_t>(most));
  Ints items(static_cast<py::ssize_t>(most));
  Floats scores(static_cast<py::ssize_t>(most));
  const auto shape = {static_cast<py::ssize_t>(most), static_cast<py::ssize_t>(count)};
  Ints ranks(shape);
  Floats source_scores(shape);
  const batch::Merged out{splits.mutable_data(), items.mutable_data(), scores.mutable_data(), bits.mutable_data(), ranks.mutable_data(), source_scores.mutable_data()};
  {
    py::gil_scoped_release release;
    batch::merge(rows, sources.data(), count, reciprocal, budget, out);
  }
  return py::make_tuple(splits, items, scores, bits, ranks, source_scores);
}

using Doubles = py::array_t<double, py::array::c_style>;

Floats calibrated_probabilities(const py::array_t<double, py::array::c_style | py::array::forcecast>& logits, const Doubles& given, const Doubles& calibrated) {
  const auto count = static_cast<std::size_t>(logits.size()), knots = static_cast<std::size_t>(given.size());
  require_shape(logits, {count}, "logits");
  require_shape(given, {std::max<std::size_t>(knots, 1)}, "given");
  require_shape(calibrated, {knots}, "calibrated");
  Floats out(logits.size());
  const double* const from = logits.data();
  float* const to = out.mutable_data();
  const batch::Knots table{given.data(), calibrated.data(), knots};
  py::gil_scoped_release release;
  batch::calibrated_probabilities(from, count, table, to);
  return out;
}

}  // namespace

void register_batch(py::module_& module) {
  py::module_ m = module.def_submodule("batch", "Candidates and their features. Private: use aitems_engine.retrieval and aitems_engine.ranking.");
  m.def("contained", &contained, py::arg("splits").noconvert(), py::arg("items").noconvert(), py::arg("history_splits").noconvert(),
        py::arg("history_items").noconvert());
  m.def("without_seen", &without_seen, py::arg("items").noconvert(), py::arg("scores").noconvert(), py::arg("histories"), py::arg("k"));
  m.def("similar_items", &similar_items, py::arg("splits").noconvert(), py::arg("items").noconvert(), py::arg("weights").noconvert(),
        py::arg("similar_splits").noconvert(), py::arg("similar").noconvert(), py::arg("similar_weights").noconvert(), py::arg("k"),
        py::arg("exclude_seen"), py::arg("allowed").noconvert() = py::none());
  m.def("merge", &merge, py::arg("found"), py::arg("reciprocal"), py::arg("budget"));
  m.def("calibrated_probabilities", &calibrated_probabilities, py::arg("logits"), py::arg("given").noconvert(), py::arg("calibrated").noconvert());
  py::class_<FeatureTable, std::shared_ptr<FeatureTable>>(m, "FeatureTable")
      .def(py::init(&make), py::kw_only(), py::arg("codes"), py::arg("matches"), py::arg("statics"), py::arg("statistics"), py::arg("numbers"),
           py::arg("registered_at"), py::arg("half_lives_ms"), py::arg("last_codes"), py::arg("contexts"), py::arg("hour"), py::arg("weekday"),
           py::arg("utc_offset_ms"), py::arg("position_max"), py::arg("position_serving"), py::arg("age"), py::arg("recency"),
           py::arg("length"), py::arg("history_max"), py::arg("center"), py::arg("scale"))
      .def("gather", &gather, py::arg("history_items").noconvert(), py::arg("history_times").noconvert(), py::arg("begins").noconvert(),
           py::arg("ends").noconvert(), py::arg("now").noconvert(), py::arg("contexts").noconvert(), py::arg("candidates").noconvert(),
           py::arg("candidate_splits").noconvert(), py::arg("codes").noconvert(), py::arg("dense").noconvert(),
           py::arg("statistics").noconvert() = py::none(), py::arg("positions").noconvert() = py::none(), py::arg("threads") = 1)
      .def_property_readonly("items", &FeatureTable::items)
      .def_property_readonly("codes", &FeatureTable::codes)
      .def_property_readonly("dense", &FeatureTable::dense)
      .def_property_readonly("bytes", &FeatureTable::bytes);
}

}  // namespace aitems::bindings
