// The native module `aitems_engine._native`: nothing but the list of what it holds.
#include "bindings/register.hpp"

PYBIND11_MODULE(_native, module) {
  module.doc() = "Native core of aitems_engine. Private: use the Python packages that wrap it.";
  aitems::bindings::register_errors(module);
  aitems::bindings::register_ann(module);
  aitems::bindings::register_batch(module);
  aitems::bindings::register_category(module);
  aitems::bindings::register_isa(module);
  aitems::bindings::register_textcnn(module);
  aitems::bindings::register_text(module);
  aitems::bindings::register_embedding(module);
  aitems::bindings::register_rerank(module);
}
