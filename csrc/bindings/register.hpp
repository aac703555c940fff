// One register_* function a file of this folder; module.cpp lists them.
#pragma once

#include <pybind11/pybind11.h>

namespace aitems::bindings {

void register_embedding(pybind11::module_& module);
void register_errors(pybind11::module_& module);
void register_ann(pybind11::module_& module);
void register_batch(pybind11::module_& module);
void register_category(pybind11::module_& module);
void register_rerank(pybind11::module_& module);
void register_isa(pybind11::module_& module);
void register_textcnn(pybind11::module_& module);
void register_text(pybind11::module_& module);

}  // namespace aitems::bindings
