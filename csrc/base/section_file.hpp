// One file of named, checksummed sections, read through a memory map. Little-endian, all integers unsigned:
//
//   0   8  magic           the kind of file
//   8   4  version         of the kind's sections
//   12  4  count           number of sections
//   16  8  file bytes
//   24  8  XXH64 of the table
//   32 24  zero
//   56  8  XXH64 of the bytes 0 .. 55
//   64     table: count x { name[16], offset, bytes, XXH64 of the section, zero }
//   ...    sections, each at a multiple of 64, zeros between
//
// Nothing of a file is believed before its checksum and its place in the file have been checked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/column.hpp"
#include "base/error.hpp"

namespace aitems {

struct SectionKind {
  std::string_view magic;  // 8 bytes
  std::uint32_t version;
  ErrorKind error;        // what a damaged file of this kind raises
  std::string_view noun;  // "index file"
  std::uint32_t oldest = version;  // that is still read
};

class SectionWriter {
 public:
  // The bytes must live until `write`.
  void add(const std::string& name, const void* data, std::size_t bytes);
  template <class T>
  void add(const std::string& name, const Column<T>& column) {
    add(name, column.data(), column.bytes());
  }
  // Writes and syncs `path`. Throws std::system_error; what was written by then is left behind.
  void write(const std::string& path, const SectionKind& kind) const;

 private:
  struct Section {
    std::string name;
    const void* data;
    std::size_t bytes;
  };
  std::vector<Section> sections_;
};

class SectionFile {
 public:
  // Maps `path`. `verify`: checks the sections' checksums too, which reads the whole file; header and table are always checked.
  static std::shared_ptr<const SectionFile> open(const std::string& path, const SectionKind& kind, bool verify);
  ~SectionFile();
  SectionFile(const SectionFile&) = delete;
  SectionFile& operator=(const SectionFile&) = delete;

  bool has(std::string_view name) const;
  // The section as an array; an error if it is missing or no whole number of elements.
  template <class T>
  Column<T> column(std::string_view name) const {
    const Section& found = find(name);
    if (found.bytes % sizeof(T) != 0) fail("section '" + std::string(name) + "' has " + std::to_string(found.bytes) + " bytes, no multiple of " + std::to_string(sizeof(T)));
    return Column<T>(reinterpret_cast<const T*>(data_ + found.offset), found.bytes / sizeof(T));
  }
  [[noreturn]] void fail(const std::string& problem) const;

 private:
  struct Section {
    std::string name;
    std::uint64_t offset, bytes, checksum;
  };
  SectionFile(std::string path, const SectionKind& kind) : path_(std::move(path)), kind_(kind) {}
  const Section& find(std::string_view name) const;
  void read_table();

  std::string path_;
  SectionKind kind_;
  const unsigned char* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::vector<Section> sections_;
};

}  // namespace aitems
