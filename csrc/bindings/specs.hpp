// Python values -> what the core builds tokenisers and classifiers from; shared by the files of this folder.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "text/tokenizer.hpp"
#include "textcnn/model.hpp"

namespace aitems::bindings {

// text.cpp: the dict of aitems_engine.text.tokenizer_json.
text::TokenizerSpec tokenizer_spec(const pybind11::dict& spec);
// textcnn.cpp: views of arrays that the caller keeps alive; names that begin with "aux." are left out.
textcnn::Tensors tensor_views(const pybind11::dict& tensors);
textcnn::Mode mode_of(const std::string& mode);

}  // namespace aitems::bindings
