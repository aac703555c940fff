// `_native.category`: the hedge of the classifier, and the classifier as a file that is read without Python.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/error.hpp"
#include "bindings/os_errors.hpp"
#include "bindings/register.hpp"
#include "bindings/specs.hpp"
#include "category/classifier_file.hpp"

namespace py = pybind11;

namespace aitems::bindings {
namespace {

using category::Answers;
using category::Hedge;
using category::OpenedClassifier;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

template <class T>
std::vector<T> copied(const py::handle& object) {
  const auto array = object.cast<Array<T>>();
  return {array.data(), array.data() + array.size()};
}

category::TreeSpec tree_spec(const py::dict& spec) {
  return {copied<int32_t>(spec["order"]), copied<int32_t>(spec["node_begin"]), copied<int32_t>(spec["node_end"]), copied<int32_t>(spec["above"]),
          copied<float>(spec["thresholds"])};
}

py::tuple above(const Hedge& hedge, Array<float> logits, const Array<int32_t>& labels, int threads) {
  if (logits.ndim() != 2 || static_cast<std::size_t>(logits.shape(1)) != hedge.labels() || labels.ndim() != 1 || labels.shape(0) != logits.shape(0))
    invalid("logits must have shape (rows, " + std::to_string(hedge.labels()) + ") and labels (rows,)");
  const auto rows = static_cast<std::size_t>(labels.shape(0));
  std::vector<Hedge::Sure> sure(rows);
  float* values = logits.mutable_data();
  const int32_t* best = labels.data();
  {
    py::gil_scoped_release release;
    hedge.above(values, best, rows, threads, sure.data());
  }
  py::array_t<int32_t> nodes(labels.shape(0));
  py::array_t<float> probabilities(labels.shape(0));
  for (std::size_t row = 0; row < rows; ++row) {
    nodes.mutable_data()[row] = sure[row].node;
    probabilities.mutable_data()[row] = sure[row].probability;
  }
  return py::make_tuple(nodes, probabilities);
}

void write(const std::string& path, const py::dict& parts, const py::list& recorded) {
  category::ClassifierSpec spec;
  spec.tokenizer = tokenizer_spec(parts["tokenizer"]);
  spec.tensors = tensor_views(parts["tensors"]);
  spec.max_title_length = parts["max_title_length"].cast<int64_t>();
  spec.max_mall_length = parts["max_mall_length"].cast<int64_t>();
  spec.gram_min = parts["gram_min"].cast<int32_t>();
  spec.gram_max = parts["gram_max"].cast<int32_t>();
  spec.gram_buckets = parts["gram_buckets"].cast<int64_t>();
  for (const auto& [name, texts] : {std::pair{"leaf_ids", &spec.leaf_ids}, {"paths", &spec.paths}, {"tops", &spec.tops}, {"node_ids", &spec.node_ids},
                                    {"node_paths", &spec.node_paths}})
    *texts = parts[name].cast<std::vector<std::string>>();
  spec.tree = tree_spec(parts["tree"]);
  spec.bundle_digest = parts["bundle_digest"].cast<std::string>();
  std::vector<category::Recorded> answers;
  for (const auto& item : recorded) {
    const auto r = item.cast<py::dict>();
    const auto labels = r["labels"].cast<Array<int32_t>>();
    if (labels.ndim() != 2) invalid("recorded labels must have shape (rows, k)");
    answers.push_back({r["titles"].cast<std::vector<std::string>>(), r["malls"].cast<std::vector<std::optional<std::string>>>(),
                       static_cast<int32_t>(labels.shape(1)), copied<int32_t>(labels), copied<float>(r["probabilities"]), copied<uint8_t>(r["abstained"])});
  }
  with_os_errors(path, [&] { category::write_classifier(path, spec, answers); });
}

py::tuple classify(const OpenedClassifier& opened, const std::vector<std::string>& titles, const std::optional<std::vector<std::optional<std::string>>>& malls,
                   int top_k, int threads) {
  const auto ref = [](const std::string& text) { return text::TextRef{text.data(), text.size(), 0}; };
  std::vector<text::TextRef> title_refs;
  std::vector<std::optional<text::TextRef>> mall_refs;
  for (const std::string& title : titles) title_refs.push_back(ref(title));
  if (malls)
    for (const auto& mall : *malls) mall_refs.push_back(mall ? std::optional(ref(*mall)) : std::nullopt);
  Answers found;
  std::vector<std::string> details;
  {
    py::gil_scoped_release release;
    found = opened.classifier->classify(title_refs, mall_refs, top_k, threads);
    for (std::size_t row = 0; row < found.rows; ++row) details.push_back(opened.classifier->detail(found, row, found.k));
  }
  const std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(found.rows), static_cast<py::ssize_t>(found.k)};
  py::list texts;
  for (const std::string& detail : details) texts.append(py::bytes(detail));
  return py::make_tuple(py::array_t<int32_t>(shape, found.labels.data()), py::array_t<float>(shape, found.probabilities.data()),
                        py::array_t<uint8_t>(static_cast<py::ssize_t>(found.rows), found.abstained.data()), texts);
}

}  // namespace

void register_category(py::module_& module) {
  py::module_ m = module.def_submodule("category", "The category classifier's hedge, and the classifier as a file of its own.");
  py::class_<Hedge>(m, "Hedge")
      .def(py::init([](const py::dict& tree) { return std::make_unique<Hedge>(tree_spec(tree)); }), py::arg("tree"))
      .def("above", &above, py::arg("logits"), py::arg("labels"), py::arg("threads") = 1);
  m.def("write_classifier", &write, py::arg("path"), py::arg("parts"), py::arg("recorded"));
  py::class_<OpenedClassifier>(m, "Classifier")
      .def(py::init([](const std::string& path, const std::string& mode, const std::string& isa) {
             const textcnn::Mode kind = mode_of(mode);
             const Isa level = require_isa(isa);
             return with_os_errors(path, [&] { return std::make_unique<OpenedClassifier>(category::open_classifier(path, kind, level)); });
           }),
           py::arg("path"), py::arg("mode") = "int8", py::arg("isa") = "")
      .def("classify", &classify, py::arg("titles"), py::arg("malls"), py::arg("top_k") = 5, py::arg("threads") = 1);
}

}  // namespace aitems::bindings
