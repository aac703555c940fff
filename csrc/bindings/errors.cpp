// The one place where native errors become Python exceptions (classes of aitems_engine.errors).
#include "base/error.hpp"

#include "bindings/register.hpp"

namespace py = pybind11;

namespace aitems::bindings {
namespace {

const char* class_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidInput: return "InvalidInputError";
    case ErrorKind::kTokenizerFormat: return "TokenizerFormatError";
    case ErrorKind::kIndexFormat: return "IndexFormatError";
    case ErrorKind::kModelMismatch: return "ModelMismatchError";
    case ErrorKind::kConfig: return "ConfigError";
  }
  return "AitemsError";
}

}  // namespace

void register_errors(py::module_&) {
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const Error& e) {
      py::object type = py::module_::import("aitems_engine.errors").attr(class_name(e.kind()));
      PyErr_SetString(type.ptr(), e.what());
    }
  });
}

}  // namespace aitems::bindings
