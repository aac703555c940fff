#include <pybind11/numpy.h>

#include "base/error.hpp"
#include "bindings/register.hpp"
#include "embedding/skipgram.hpp"

namespace py = pybind11;

namespace aitems::bindings {
namespace {

using Ids = py::array_t<std::int32_t, py::array::c_style>;
using Splits = py::array_t<std::int64_t, py::array::c_style>;

py::array_t<float> train(const Ids& ids, const Splits& splits, std::size_t vocab_size, int dim, int window, int negatives,
                         int epochs, double sample, double learning_rate, int threads, std::uint64_t seed, const std::string& isa,
                         const py::object& progress) {
  if (ids.ndim() != 1 || splits.ndim() != 1 || splits.size() < 1 || splits.data()[splits.size() - 1] != ids.size())
    throw Error(ErrorKind::kInvalidInput, "ids and row_splits must be 1-D, with row_splits from 0 to len(ids) = " + std::to_string(ids.size()));
  const SkipgramOptions options{dim, window, negatives, epochs, sample, learning_rate, threads, seed};
  SkipgramProgress report = [&](std::size_t done, std::size_t total) {
    py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!progress.is_none()) progress(done, total);
  };
  std::vector<float> vectors;
  {
    const std::int32_t* first = ids.data();
    const std::int64_t* rows = splits.data();
    const auto count = static_cast<std::size_t>(splits.size() - 1);
    const Isa level = require_isa(isa);
    py::gil_scoped_release released;
    vectors = train_skipgram(first, rows, count, vocab_size, options, level, report);
  }
  py::array_t<float> out({static_cast<py::ssize_t>(vocab_size), static_cast<py::ssize_t>(dim)});
  std::copy(vectors.begin(), vectors.end(), out.mutable_data());
  return out;
}

}  // namespace

void register_embedding(py::module_& module) {
  py::module_ embedding = module.def_submodule("embedding", "Training of word vectors.");
  embedding.def("train_skipgram", &train, py::arg("ids").noconvert(), py::arg("row_splits").noconvert(), py::arg("vocab_size"),
                py::arg("dim"), py::arg("window"), py::arg("negatives"), py::arg("epochs"), py::arg("sample"), py::arg("learning_rate"),
                py::arg("threads"), py::arg("seed"), py::arg("isa") = "", py::arg("progress") = py::none());
}

}  // namespace aitems::bindings
