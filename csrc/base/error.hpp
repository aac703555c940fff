// The one exception type of the native core. The core knows no Python: bindings/errors.cpp maps each kind to a class of
// aitems_engine.errors. Thrown once, at the edge, with a message that says what was wrong, what was given and what is allowed.
#pragma once

#include <stdexcept>
#include <string>

namespace aitems {

enum class ErrorKind {
  kInvalidInput,     // a caller's argument: wrong shape, dtype, range
  kTokenizerFormat,  // a tokeniser file that is damaged or uses something this engine does not have
  kIndexFormat,      // an index file that is damaged or of another version
  kModelMismatch,    // parts that do not belong together
  kConfig,           // environment or configuration, e.g. an impossible AITEMS_ISA
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace aitems
