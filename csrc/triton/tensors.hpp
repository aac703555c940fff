// What comes with a request, as plain values: texts of a BYTES tensor, parameters of the model's configuration.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.hpp"

namespace aitems::triton {

// A BYTES tensor is its texts one after another, each behind its length (4 bytes, little-endian). Appends `count` texts, which lie
// in `data`. Throws InvalidInput, with nothing appended, where the bytes are not exactly `count` texts.
void read_texts(std::string_view name, const char* data, std::size_t size, int64_t count, std::vector<text::TextRef>& out);
void append_text(std::string_view text, std::string& out);

// The value of parameters.<name>.string_value in a model's configuration as JSON; "" where there is none.
std::string parameter(std::string_view config, std::string_view name);

// A whole number from 1 to `most`, or 0.
int whole_number(std::string_view text, int most);

}  // namespace aitems::triton
