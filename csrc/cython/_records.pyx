# cython: language_level=3, boundscheck=False, wraparound=False
"""Classifications as lines of JSON: one pass over the columns of a batch, one bytes object a product.

Knows the shape of the output record and nothing of models or streams. `Classification.records` with the `json` module is
its slow twin. A label's id and path come as JSON already, because they are the same for every product.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.math cimport llrint
from libc.stdint cimport int32_t, uint8_t
from libcpp.string cimport string

import json

cdef extern from *:
    """
    // True where the bytes can stand in a JSON string as they are.
    static inline bool plain(const char* text, Py_ssize_t size) {
      for (Py_ssize_t i = 0; i < size; ++i) {
        const unsigned char c = static_cast<unsigned char>(text[i]);
        if (c < 0x20 || c == '"' || c == '\\\\') return false;
      }
      return true;
    }
    """
    bint plain(const char* text, Py_ssize_t size) nogil


cdef int append_value(string& out, object value) except -1:
    """Append a str, an int or None."""
    cdef Py_ssize_t size
    cdef const char* text
    if value is None:
        out.append(b"null", 4)
        return 0
    if type(value) is str:
        try:
            text = PyUnicode_AsUTF8AndSize(value, &size)
        except UnicodeEncodeError:  # a lone surrogate: only its escape can be written
            escaped = json.dumps(value).encode()
            out.append(<const char*>escaped, len(escaped))
            return 0
        if plain(text, size):
            out.push_back(c'"')
            out.append(text, size)
            out.push_back(c'"')
            return 0
    elif type(value) is not int:
        raise TypeError(f"expected str, int or None, got {type(value).__name__}")
    encoded = json.dumps(value, ensure_ascii=False).encode()
    out.append(<const char*>encoded, len(encoded))
    return 0


cdef void append_probability(string& out, float probability) noexcept nogil:
    """Append a number from 0 to 1 with at most six decimals."""
    cdef long long millionths = llrint(<double>probability * 1e6)
    cdef char digits[8]
    cdef int last = 7, i
    if millionths >= 1000000:
        out.append(b"1.0", 3)
        return
    if millionths < 0:
        millionths = 0
    digits[0] = c"0"
    digits[1] = c"."
    for i in range(7, 1, -1):
        digits[i] = <char>(c"0" + millionths % 10)
        millionths //= 10
    while last > 2 and digits[last] == c"0":
        last -= 1
    out.append(digits, last + 1)


def encode_records(
    list product_ids not None,
    const int32_t[:, ::1] label_indices not None,
    const float[:, ::1] probabilities not None,
    const uint8_t[::1] abstained not None,
    list causes not None,
    list labels not None,
    bytes bundle not None,
):
    """encode_records(product_ids, label_indices, probabilities, abstained, causes, labels, bundle)

    Return one record a product as JSON without white space or line end; see python/aitems_engine/_records.pyi.
    """
    cdef Py_ssize_t rows = label_indices.shape[0], ranks = label_indices.shape[1], row, rank
    cdef Py_ssize_t num_labels = len(labels)
    cdef string out
    cdef bytes label
    cdef int32_t index
    if len(product_ids) != rows or probabilities.shape[0] != rows or abstained.shape[0] != rows or len(causes) != rows:
        raise ValueError(
            f"all columns must have {rows} rows, got {len(product_ids)} product_ids, {probabilities.shape[0]} "
            f"probabilities, {abstained.shape[0]} abstained, {len(causes)} causes"
        )
    if probabilities.shape[1] != ranks:
        raise ValueError(f"probabilities must have {ranks} columns, as label_indices, got {probabilities.shape[1]}")
    cdef list records = []
    for row in range(rows):
        out.clear()
        out.append(b'{"product_id":', 14)
        append_value(out, product_ids[row])
        out.append(b',"categories":[', 15)
        for rank in range(ranks):
            index = label_indices[row, rank]
            if index < 0 or index >= num_labels:
                raise IndexError(f"label {index} of row {row} is not one of the {num_labels} labels")
            label = labels[index]
            if rank:
                out.push_back(c",")
            out.append(<const char*>label, len(label))
            append_probability(out, probabilities[row, rank])
            out.push_back(c"}")
        out.append(b'],"abstained":', 14)
        if abstained[row]:
            out.append(b"true", 4)
        else:
            out.append(b"false", 5)
        out.append(b',"cause":', 9)
        append_value(out, causes[row])
        out.append(b',"bundle":', 10)
        out.append(<const char*>bundle, len(bundle))
        out.push_back(c"}")
        records.append(PyBytes_FromStringAndSize(out.data(), out.size()))
    return records
