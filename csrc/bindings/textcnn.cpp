// `_native.textcnn`: arrays in, checked for type and shape, arrays out; the work runs without the GIL.
#include "textcnn/scorer.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "bindings/register.hpp"
#include "bindings/specs.hpp"
#include "textcnn/char_ngrams.hpp"

namespace py = pybind11;

namespace aitems::bindings {
namespace {

using textcnn::Inputs;
using textcnn::Scorer;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

// An array exactly as it is needed; nothing is converted silently, as a copy would hide a cost or a loss.
template <class T>
py::array_t<T> exact(const py::handle& object, const char* name, int dims) {
  if (!py::isinstance<py::array>(object)) invalid(std::string(name) + " must be a NumPy array, got " + std::string(py::str(py::type::of(object).attr("__name__"))));
  const auto array = py::reinterpret_borrow<py::array>(object);
  const bool same = py::dtype::of<T>().is(array.dtype()) || py::dtype::of<T>().equal(array.dtype());
  if (!same || array.ndim() != dims || !(array.flags() & py::array::c_style))
    invalid(std::string(name) + " must be a C-contiguous " + std::string(py::str(py::dtype::of<T>())) + " array with " + std::to_string(dims) +
            (dims == 1 ? " dimension" : " dimensions") + ", got " + std::string(py::str(array.dtype())) + " of shape " + std::string(py::str(array.attr("shape"))) +
            ((array.flags() & py::array::c_style) ? "" : ", not contiguous"));
  return py::reinterpret_borrow<py::array_t<T>>(array);
}

// The arrays of one batch, kept alive while the core reads them.
struct Batch {
  py::object held[6];
  Inputs inputs;

  Batch(const py::object& title_ids, const py::object& title_lengths, const py::object& gram_ids, const py::object& gram_splits, const py::object& mall_ids,
        const py::object& mall_lengths) {
    const auto titles = exact<int32_t>(title_ids, "title_ids", 2);
    inputs.count = titles.shape(0);
    inputs.title_ids = titles.data();
    inputs.title_width = titles.shape(1);
    inputs.title_lengths = vector<int32_t>(title_lengths, "title_lengths", inputs.count, 1);
    held[0] = titles;
    if (!gram_ids.is_none() || !gram_splits.is_none()) {
      const auto grams = exact<int32_t>(gram_ids, "gram_ids", 1);
      inputs.gram_ids = grams.data();
      inputs.gram_count = grams.shape(0);
      inputs.gram_splits = vector<int64_t>(gram_splits, "gram_splits", inputs.count + 1, 3);
      held[2] = grams;
    }
    if (!mall_ids.is_none() || !mall_lengths.is_none()) {
      const auto malls = exact<int32_t>(mall_ids, "mall_ids", 2);
      if (malls.shape(0) != inputs.count)
        invalid("mall_ids must have as many rows as title_ids (" + std::to_string(inputs.count) + "), got " + std::to_string(malls.shape(0)));
      inputs.mall_ids = malls.data();
      inputs.mall_width = malls.shape(1);
      inputs.mall_lengths = vector<int32_t>(mall_lengths, "mall_lengths", inputs.count, 5);
      held[4] = malls;
    }
  }

 private:
  template <class T>
  const T* vector(const py::object& object, const char* name, int64_t size, int slot) {
    const auto array = exact<T>(object, name, 1);
    if (array.shape(0) != size) invalid(std::string(name) + " must have " + std::to_string(size) + " elements, got " + std::to_string(array.shape(0)));
    held[slot] = array;
    return array.data();
  }
};

std::unique_ptr<Scorer> make_scorer(const py::dict& tensors, const std::string& mode, const std::string& isa, int threads) {
  const textcnn::Mode kind = mode_of(mode);
  const textcnn::Tensors views = tensor_views(tensors);
  const Isa level = require_isa(isa);
  py::gil_scoped_release release;
  return std::make_unique<Scorer>(textcnn::Model(views, kind, level, threads));
}

py::dict describe(const Scorer& scorer) {
  const textcnn::Model& model = scorer.model();
  py::dict out;
  out["mode"] = model.mode == textcnn::Mode::kInt8 ? "int8" : "exact";
  out["isa"] = std::string(isa_name(model.isa));
  out["classes"] = model.classes();
  out["vocabulary"] = model.vocabulary;
  out["features"] = model.depth;
  out["has_bag"] = model.bag.present();
  out["has_mall"] = model.mall.present();
  out["gram_buckets"] = model.bag.buckets;
  out["table_bytes"] = model.table_bytes();
  out["weight_bytes"] = model.weight_bytes();
  return out;
}

}  // namespace

textcnn::Mode mode_of(const std::string& mode) {
  if (mode != "exact" && mode != "int8") invalid("mode must be 'exact' or 'int8', got '" + mode + "'");
  return mode == "int8" ? textcnn::Mode::kInt8 : textcnn::Mode::kExact;
}

textcnn::Tensors tensor_views(const py::dict& tensors) {
  textcnn::Tensors views;
  for (const auto& [key, value] : tensors) {
    const std::string name = py::str(key);
    if (name.rfind("aux.", 0) == 0) continue;
    const bool array = py::isinstance<py::array>(value);
    const auto given = exact<float>(value, ("tensor '" + name + "'").c_str(), array ? static_cast<int>(py::reinterpret_borrow<py::array>(value).ndim()) : 0);
    views[name] = {given.data(), {given.shape(), given.shape() + given.ndim()}};
  }
  return views;
}

void register_textcnn(py::module_& module) {
  py::module_ m = module.def_submodule("textcnn", "The folded text classifier and its character n-grams.");
  m.def(
      "char_ngrams",
      [](const py::object& data, const py::object& offsets, int min_n, int max_n, int64_t buckets, int threads) {
        const auto bytes = exact<uint8_t>(data, "data", 1);
        const auto ends = exact<int64_t>(offsets, "offsets", 1);
        if (ends.shape(0) < 1) invalid("offsets must have one element more than there are texts, got none");
        textcnn::CharNgrams grams;
        {
          const auto* d = bytes.data();
          const auto* o = ends.data();
          const auto size = static_cast<std::size_t>(bytes.shape(0)), count = static_cast<std::size_t>(ends.shape(0) - 1);
          py::gil_scoped_release release;
          grams = textcnn::char_ngrams(d, size, o, count, min_n, max_n, buckets, threads);
        }
        return py::make_tuple(py::array_t<int32_t>(static_cast<py::ssize_t>(grams.ids.size()), grams.ids.data()),
                              py::array_t<int64_t>(static_cast<py::ssize_t>(grams.splits.size()), grams.splits.data()));
      },
      py::arg("data"), py::arg("offsets"), py::arg("min_n"), py::arg("max_n"), py::arg("buckets"), py::arg("threads") = 1);

  py::class_<Scorer>(m, "Scorer")
      .def(py::init(&make_scorer), py::arg("tensors"), py::arg("mode"), py::arg("isa") = "", py::arg("threads") = 0)
      .def("describe", &describe)
      .def(
          "top",
          [](const Scorer& scorer, const py::object& a, const py::object& b, const py::object& c, const py::object& d, const py::object& e, const py::object& f,
             int top_k, int threads) {
            const Batch batch(a, b, c, d, e, f);
            if (top_k < 1 || top_k > scorer.model().classes())
              invalid("top_k must be from 1 to the number of classes (" + std::to_string(scorer.model().classes()) + "), got " + std::to_string(top_k));
            py::array_t<int32_t> indices({batch.inputs.count, static_cast<int64_t>(top_k)});
            py::array_t<float> probabilities({batch.inputs.count, static_cast<int64_t>(top_k)});
            auto* i = indices.mutable_data();
            auto* p = probabilities.mutable_data();
            {
              py::gil_scoped_release release;
              scorer.top(batch.inputs, top_k, threads, i, p);
            }
            return py::make_tuple(indices, probabilities);
          },
          py::arg("title_ids"), py::arg("title_lengths"), py::arg("gram_ids"), py::arg("gram_splits"), py::arg("mall_ids"), py::arg("mall_lengths"),
          py::arg("top_k"), py::arg("threads") = 1)
      .def(
          "all",
          [](const Scorer& scorer, const py::object& a, const py::object& b, const py::object& c, const py::object& d, const py::object& e, const py::object& f,
             bool probabilities, int threads) {
            const Batch batch(a, b, c, d, e, f);
            py::array_t<float> out({batch.inputs.count, scorer.model().classes()});
            auto* o = out.mutable_data();
            {
              py::gil_scoped_release release;
              if (probabilities)
                scorer.probabilities(batch.inputs, threads, o);
              else
                scorer.logits(batch.inputs, threads, o);
            }
            return out;
          },
          py::arg("title_ids"), py::arg("title_lengths"), py::arg("gram_ids"), py::arg("gram_splits"), py::arg("mall_ids"), py::arg("mall_lengths"),
          py::arg("probabilities"), py::arg("threads") = 1);
}

}  // namespace aitems::bindings
