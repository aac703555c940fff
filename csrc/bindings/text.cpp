// `_native.text.Tokenizer`: plain values in (the Python side reads the JSON), arrays out; encoding runs without the GIL.
// Texts are read where they lie: compact ASCII and cached UTF-8 of str, code units of other str, bytes, packed arrays and
// Arrow arrays through the Arrow C data interface (no pyarrow needed here).
#include "text/tokenizer.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <climits>
#include <optional>

#include "base/error.hpp"
#include "bindings/register.hpp"
#include "bindings/specs.hpp"

namespace py = pybind11;

// The ABI-stable structures of https://arrow.apache.org/docs/format/CDataInterface.html (and its stream).
struct ArrowSchema {
  const char* format;
  const char* name;
  const char* metadata;
  int64_t flags;
  int64_t n_children;
  ArrowSchema** children;
  ArrowSchema* dictionary;
  void (*release)(ArrowSchema*);
  void* private_data;
};
struct ArrowArray {
  int64_t length, null_count, offset, n_buffers, n_children;
  const void** buffers;
  ArrowArray** children;
  ArrowArray* dictionary;
  void (*release)(ArrowArray*);
  void* private_data;
};
struct ArrowArrayStream {
  int (*get_schema)(ArrowArrayStream*, ArrowSchema*);
  int (*get_next)(ArrowArrayStream*, ArrowArray*);
  const char* (*get_last_error)(ArrowArrayStream*);
  void (*release)(ArrowArrayStream*);
  void* private_data;
};

namespace aitems::bindings {
namespace {

using text::EncodeOptions;
using text::TextRef;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

// The texts of one call, and what keeps their memory alive while the GIL is released.
struct Texts {
  std::vector<TextRef> refs;
  py::object owner;
  std::vector<ArrowArray> arrays;

  Texts() = default;
  Texts(const Texts&) = delete;
  Texts& operator=(const Texts&) = delete;
  ~Texts() {
    for (ArrowArray& array : arrays)
      if (array.release) array.release(&array);
  }
};

TextRef ref_of_str(PyObject* object) {
#if PY_VERSION_HEX < 0x030C0000
  if (PyUnicode_READY(object) < 0) throw py::error_already_set();
#endif
  const auto size = static_cast<std::size_t>(PyUnicode_GET_LENGTH(object));
  if (PyUnicode_IS_COMPACT_ASCII(object)) return {PyUnicode_DATA(object), size, 0};
  // UTF-8 that an earlier call left in the object; asking for it when it is not there would allocate it for good.
  const auto* compact = reinterpret_cast<PyCompactUnicodeObject*>(object);
  if (PyUnicode_IS_COMPACT(object) && compact->utf8) return {compact->utf8, static_cast<std::size_t>(compact->utf8_length), 0};
  return {PyUnicode_DATA(object), size, static_cast<int>(PyUnicode_KIND(object))};
}

void read_sequence(const py::object& texts, Texts& out) {
  // A tuple of our own: nobody can change it, or free its strings, while the GIL is released.
  out.owner = py::reinterpret_steal<py::object>(PySequence_Tuple(texts.ptr()));
  if (!out.owner) throw py::error_already_set();
  const auto count = static_cast<std::size_t>(PyTuple_GET_SIZE(out.owner.ptr()));
  out.refs.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    PyObject* item = PyTuple_GET_ITEM(out.owner.ptr(), static_cast<Py_ssize_t>(i));
    if (PyUnicode_Check(item)) out.refs[i] = ref_of_str(item);
    else if (PyBytes_Check(item)) out.refs[i] = {PyBytes_AS_STRING(item), static_cast<std::size_t>(PyBytes_GET_SIZE(item)), 0};
    else if (item != Py_None)
      invalid("texts must hold str, bytes or None, got " + std::string(Py_TYPE(item)->tp_name) + " at index " + std::to_string(i));
  }
}

void read_packed(const py::handle& data_object, const py::handle& offsets_object, Texts& out) {
  if (!py::isinstance<py::array_t<std::uint8_t>>(data_object) || !py::isinstance<py::array_t<std::int64_t>>(offsets_object))
    invalid("packed text must be data uint8 (bytes,) and offsets int64 (n + 1,)");
  const auto data = py::reinterpret_borrow<py::array_t<std::uint8_t>>(data_object);
  const auto offsets = py::reinterpret_borrow<py::array_t<std::int64_t>>(offsets_object);
  if (data.ndim() != 1 || offsets.ndim() != 1 || offsets.shape(0) < 1 || !(data.flags() & py::array::c_style) || !(offsets.flags() & py::array::c_style))
    invalid("packed text must be contiguous: data uint8 (bytes,) and offsets int64 (n + 1,)");
  const auto count = static_cast<std::size_t>(offsets.shape(0) - 1);
  const std::int64_t* at = offsets.data();
  if (at[0] < 0 || at[count] > data.shape(0)) invalid("packed text: offsets must lie within the data of " + std::to_string(data.shape(0)) + " bytes");
  out.refs.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (at[i + 1] < at[i]) invalid("packed text: offsets must not decrease, but they do at row " + std::to_string(i));
    out.refs[i] = {data.data() + at[i], static_cast<std::size_t>(at[i + 1] - at[i]), 0};
  }
  out.owner = py::make_tuple(data, offsets);
}

template <class Offset>
void read_arrow_buffers(const ArrowArray& array, Texts& out) {
  const auto* valid = static_cast<const std::uint8_t*>(array.buffers[0]);
  const auto* at = static_cast<const Offset*>(array.buffers[1]);
  const auto* data = static_cast<const char*>(array.buffers[2]);
  for (std::int64_t k = 0; k < array.length; ++k) {
    const std::int64_t i = k + array.offset;
    const bool null = valid && !(valid[i >> 3] >> (i & 7) & 1);
    const Offset size = null ? 0 : at[i + 1] - at[i];
    if (size < 0) invalid("Arrow string array: offsets decrease at row " + std::to_string(k));
    out.refs.push_back(size ? TextRef{data + at[i], static_cast<std::size_t>(size), 0} : TextRef{});
  }
}

// Takes over the array.
void read_arrow_array(const std::string& format, ArrowArray& array, Texts& out) {
  out.arrays.push_back(array);
  array.release = nullptr;
  const ArrowArray& held = out.arrays.back();
  if (held.length && (format == "u" || format == "z")) read_arrow_buffers<std::int32_t>(held, out);
  else if (held.length) read_arrow_buffers<std::int64_t>(held, out);
}

std::string arrow_format(ArrowSchema* schema) {
  const std::string format = schema->format;
  const bool dictionary = schema->dictionary != nullptr;
  if (schema->release) schema->release(schema);
  if (dictionary || (format != "u" && format != "U" && format != "z" && format != "Z"))
    invalid("Arrow array must be string, large_string, binary or large_binary, got " +
            (dictionary ? "a dictionary array" : "format '" + format + "'") + "; cast it, e.g. array.cast(pyarrow.string())");
  return format;
}

void read_arrow(const py::object& texts, Texts& out) {
  if (py::hasattr(texts, "__arrow_c_array__")) {
    const auto capsules = texts.attr("__arrow_c_array__")().cast<py::tuple>();
    auto* schema = static_cast<ArrowSchema*>(PyCapsule_GetPointer(capsules[0].ptr(), "arrow_schema"));
    auto* array = static_cast<ArrowArray*>(PyCapsule_GetPointer(capsules[1].ptr(), "arrow_array"));
    if (!schema || !array) throw py::error_already_set();
    read_arrow_array(arrow_format(schema), *array, out);
    return;
  }
  const auto capsule = texts.attr("__arrow_c_stream__")().cast<py::object>();
  auto* stream = static_cast<ArrowArrayStream*>(PyCapsule_GetPointer(capsule.ptr(), "arrow_array_stream"));
  if (!stream) throw py::error_already_set();
  const auto check = [&](int code) {
    if (code) invalid(std::string("Arrow stream: ") + (stream->get_last_error(stream) ? stream->get_last_error(stream) : "failed"));
  };
  ArrowSchema schema{};
  check(stream->get_schema(stream, &schema));
  const std::string format = arrow_format(&schema);
  for (;;) {
    ArrowArray array{};
    check(stream->get_next(stream, &array));
    if (!array.release) break;
    read_arrow_array(format, array, out);
  }
}

void read_texts(const py::object& texts, const py::object& offsets, Texts& out) {
  if (!offsets.is_none()) return read_packed(texts, offsets, out);
  if (py::hasattr(texts, "__arrow_c_array__") || py::hasattr(texts, "__arrow_c_stream__")) return read_arrow(texts, out);
  if (PyUnicode_Check(texts.ptr()) || PyBytes_Check(texts.ptr()))
    invalid("texts must be a sequence of texts, got one " + std::string(Py_TYPE(texts.ptr())->tp_name) + "; pass [text]");
  if (!PySequence_Check(texts.ptr()))
    invalid("texts must be a list of str or bytes, PackedText or an Arrow string array, got " + std::string(Py_TYPE(texts.ptr())->tp_name));
  read_sequence(texts, out);
}

std::vector<text::ComponentSpec> components(const py::list& list) {
  std::vector<text::ComponentSpec> out;
  for (const auto& item : list) {
    const auto fields = item.cast<py::tuple>();
    out.push_back({fields[0].cast<std::string>(), fields[1].cast<std::string>(), fields[2].cast<std::string>(), fields[3].cast<std::int64_t>()});
  }
  return out;
}

std::unique_ptr<text::Tokenizer> make_tokenizer(const py::dict& spec, const std::string& isa) {
  const text::TokenizerSpec parts = tokenizer_spec(spec);
  const Isa level = require_isa(isa);
  py::gil_scoped_release release;
  return std::make_unique<text::Tokenizer>(parts, level);
}

py::tuple encode(const text::Tokenizer& tokenizer, const py::object& texts, const py::object& packed_offsets, std::int64_t max_length,
                 std::int64_t pad_to, std::int32_t pad_id, bool ragged, bool offsets, bool normalized, bool add_special, int threads,
                 const text::KeywordRules* keywords, const std::optional<py::array_t<std::int32_t>>& categories) {
  Texts input;
  read_texts(texts, packed_offsets, input);
  if (categories && (categories->ndim() != 1 || categories->shape(0) != static_cast<py::ssize_t>(input.refs.size())))
    invalid("categories must have one element a text (" + std::to_string(input.refs.size()) + ")");
  EncodeOptions options;
  options.max_length = max_length;
  options.add_special = add_special;
  options.offsets = offsets;
  options.normalized = normalized;
  options.threads = threads;
  options.keywords = keywords;
  if (categories) options.categories = categories->data();
  text::Encoded encoded;
  {
    py::gil_scoped_release release;
    encoded = tokenizer.encode(input.refs, options);
  }
  const auto rows = static_cast<py::ssize_t>(encoded.rows());
  py::object ids, lengths, spans = py::none(), data = py::none(), splits = py::none();
  if (ragged) {
    py::array_t<std::int32_t> flat(encoded.tokens());
    py::array_t<std::int64_t> row_splits(rows + 1);
    encoded.copy_flat(flat.mutable_data());
    encoded.copy_splits(row_splits.mutable_data());
    ids = flat;
    lengths = row_splits;
  } else {
    const std::int64_t width = pad_to >= 0 ? pad_to : encoded.longest();
    py::array_t<std::int32_t> padded({rows, static_cast<py::ssize_t>(width)});
    py::array_t<std::int32_t> row_lengths(rows);
    auto* to = padded.mutable_data();
    auto* lengths_to = row_lengths.mutable_data();
    {
      py::gil_scoped_release release;
      encoded.copy_padded(to, width, pad_id, threads);
      encoded.copy_lengths(lengths_to, width);
    }
    ids = padded;
    lengths = row_lengths;
  }
  static_assert(sizeof(text::Span) == 2 * sizeof(std::uint32_t), "offsets are pairs of 32-bit numbers");
  if (offsets && ragged) {
    py::array_t<std::int32_t> pairs({static_cast<py::ssize_t>(encoded.tokens()), py::ssize_t{2}});
    encoded.copy_offsets_flat(reinterpret_cast<text::Span*>(pairs.mutable_data()));
    spans = pairs;
  } else if (offsets) {
    const std::int64_t width = pad_to >= 0 ? pad_to : encoded.longest();
    py::array_t<std::int32_t> pairs({rows, static_cast<py::ssize_t>(width), py::ssize_t{2}});
    encoded.copy_offsets_padded(reinterpret_cast<text::Span*>(pairs.mutable_data()), width);
    spans = pairs;
  }
  if (normalized) {
    py::array_t<std::uint8_t> bytes(encoded.normalized_bytes());
    py::array_t<std::int64_t> row_splits(rows + 1);
    encoded.copy_normalized(bytes.mutable_data(), row_splits.mutable_data());
    data = bytes;
    splits = row_splits;
  }
  return py::make_tuple(ids, lengths, spans, data, splits, encoded.replaced());
}

}  // namespace

text::TokenizerSpec tokenizer_spec(const py::dict& spec) {
  text::TokenizerSpec out;
  out.normalizer = components(spec["normalizer"]);
  out.pre_tokenizer = components(spec["pre_tokenizer"]);
  out.prefix_ids = spec["prefix_ids"].cast<std::vector<std::int32_t>>();
  out.suffix_ids = spec["suffix_ids"].cast<std::vector<std::int32_t>>();
  for (const auto& item : spec["added"].cast<py::list>()) {
    const auto f = item.cast<py::tuple>();
    out.added.push_back({f[0].cast<std::string>(), f[1].cast<std::int32_t>(), f[2].cast<bool>(), f[3].cast<bool>(), f[4].cast<bool>(), f[5].cast<bool>()});
  }
  const py::dict model = spec["model"];
  text::ModelSpec& m = out.model;
  m.type = model["type"].cast<std::string>();
  const py::list tokens = model["tokens"];
  const auto ids = model["ids"].cast<std::vector<std::int32_t>>();
  if (ids.size() != tokens.size()) invalid("tokens and ids must have the same length");
  m.vocab.reserve(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) m.vocab.emplace_back(tokens[i].cast<std::string>(), ids[i]);
  m.unk_id = model["unk_id"].cast<std::int32_t>();
  m.prefix = model["prefix"].cast<std::string>();
  m.suffix = model["suffix"].cast<std::string>();
  m.max_word_chars = model["max_word_chars"].cast<std::int64_t>();
  m.fuse_unk = model["fuse_unk"].cast<bool>();
  m.byte_fallback = model["byte_fallback"].cast<bool>();
  m.ignore_merges = model["ignore_merges"].cast<bool>();
  m.byte_level = model["byte_level"].cast<bool>();
  m.scores = model["scores"].cast<std::vector<double>>();
  m.merges = model["merges"].cast<std::vector<std::int32_t>>();
  if (m.type == "Unigram" && m.scores.size() != m.vocab.size()) invalid("scores and tokens must have the same length");
  if (m.merges.size() % 3) invalid("merges must be triples");
  return out;
}

void register_text(py::module_& module) {
  py::module_ submodule = module.def_submodule("text", "Tokenisers.");
  py::class_<text::Tokenizer> tokenizer_class(submodule, "Tokenizer");
  py::class_<text::KeywordRules>(submodule, "KeywordRules")
      .def(py::init([](const text::Tokenizer& tokenizer, const std::vector<std::pair<std::string, std::vector<std::int32_t>>>& rules) {
             std::vector<text::KeywordSpec> specs;
             for (const auto& [keyword, codes] : rules) specs.push_back({keyword, codes});
             return std::make_unique<text::KeywordRules>(specs, tokenizer.normalizer());
           }),
           py::arg("tokenizer"), py::arg("rules"));
  tokenizer_class
      .def(py::init(&make_tokenizer), py::arg("spec"), py::arg("isa") = "")
      .def_property_readonly("isa", [](const text::Tokenizer& t) { return std::string(isa_name(t.isa())); })
      .def("encode", &encode, py::arg("texts"), py::arg("packed_offsets"), py::arg("max_length"), py::arg("pad_to"), py::arg("pad_id"),
           py::arg("ragged"), py::arg("offsets"), py::arg("normalized"), py::arg("add_special"), py::arg("threads"), py::arg("keywords"),
           py::arg("categories"));
}

}  // namespace aitems::bindings
