// The core's std::system_error becomes Python's OSError with number and file name.
#pragma once

#include <pybind11/pybind11.h>

#include <cerrno>
#include <string>
#include <system_error>

namespace aitems::bindings {

// Runs `body` without the GIL.
template <class Body>
auto with_os_errors(const std::string& path, const Body& body) {
  try {
    pybind11::gil_scoped_release release;
    return body();
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
    throw pybind11::error_already_set();
  }
}

}  // namespace aitems::bindings
