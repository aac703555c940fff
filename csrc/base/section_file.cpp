#include "base/section_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/hash.hpp"

static_assert(std::endian::native == std::endian::little, "section files are little-endian and are mapped as they are");

namespace aitems {
namespace {

constexpr std::size_t kHeaderBytes = 64, kEntryBytes = 48, kNameBytes = 16, kAlignment = 64, kSectionsMax = 4096;

struct Header {
  char magic[8];
  std::uint32_t version, count;
  std::uint64_t file_bytes, table_checksum;
  unsigned char zero[24];
  std::uint64_t checksum;
};
struct Entry {
  char name[kNameBytes];
  std::uint64_t offset, bytes, checksum, zero;
};
static_assert(sizeof(Header) == kHeaderBytes && sizeof(Entry) == kEntryBytes, "the layout on disk has no padding");

std::uint64_t aligned(std::uint64_t at) { return (at + kAlignment - 1) / kAlignment * kAlignment; }

[[noreturn]] void system_failure(const std::string& path) { throw std::system_error(errno, std::generic_category(), path); }

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags) : path_(path), number_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (number_ < 0) system_failure(path);
  }
  ~Descriptor() { ::close(number_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }
  void write_all(const void* data, std::size_t bytes) const {
    const char* p = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = ::write(number_, p, std::min<std::size_t>(bytes, std::size_t{1} << 30));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) system_failure(path_);
      p += written;
      bytes -= static_cast<std::size_t>(written);
    }
  }

 private:
  std::string path_;
  int number_;
};

}  // namespace

void SectionWriter::add(const std::string& name, const void* data, std::size_t bytes) {
  if (name.empty() || name.size() > kNameBytes || sections_.size() == kSectionsMax)
    throw Error(ErrorKind::kInvalidInput, "a file holds at most " + std::to_string(kSectionsMax) + " sections with names of 1 to 16 bytes, got '" + name + "'");
  sections_.push_back({name, data, bytes});
}

void SectionWriter::write(const std::string& path, const SectionKind& kind) const {
  std::vector<Entry> table(sections_.size());
  std::uint64_t at = aligned(kHeaderBytes + table.size() * kEntryBytes);
  for (std::size_t i = 0; i < table.size(); ++i) {
    table[i] = {};
    std::memcpy(table[i].name, sections_[i].name.data(), sections_[i].name.size());
    table[i].offset = at;
    table[i].bytes = sections_[i].bytes;
    table[i].checksum = xxh64(sections_[i].data, sections_[i].bytes);
    at = aligned(at + sections_[i].bytes);
  }
  Header header{};
  std::memcpy(header.magic, kind.magic.data(), sizeof(header.magic));
  header.version = kind.version;
  header.count = static_cast<std::uint32_t>(table.size());
  header.file_bytes = at;
  header.table_checksum = xxh64(table.data(), table.size() * sizeof(Entry));
  header.checksum = xxh64(&header, sizeof(header) - sizeof(header.checksum));

  const Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
  const unsigned char zeros[kAlignment] = {};
  std::uint64_t written = 0;
  const auto put = [&](const void* data, std::size_t bytes) {
    file.write_all(data, bytes);
    written += bytes;
  };
  put(&header, sizeof(header));
  put(table.data(), table.size() * sizeof(Entry));
  put(zeros, aligned(written) - written);
  for (const Section& section : sections_) {
    put(section.data, section.bytes);
    put(zeros, aligned(written) - written);
  }
  if (::fsync(file.number()) != 0) system_failure(path);
}

std::shared_ptr<const SectionFile> SectionFile::open(const std::string& path, const SectionKind& kind, bool verify) {
  std::shared_ptr<SectionFile> file(new SectionFile(path, kind));
  const Descriptor descriptor(path, O_RDONLY);
  struct stat status{};
  if (::fstat(descriptor.number(), &status) != 0) system_failure(path);
  file->bytes_ = static_cast<std::size_t>(status.st_size);
  if (file->bytes_ < kHeaderBytes) file->fail("it has " + std::to_string(file->bytes_) + " bytes, less than a header");
  void* mapped = ::mmap(nullptr, file->bytes_, PROT_READ, MAP_SHARED, descriptor.number(), 0);
  if (mapped == MAP_FAILED) system_failure(path);
  file->data_ = static_cast<const unsigned char*>(mapped);
  if (verify) ::madvise(mapped, file->bytes_, MADV_WILLNEED);
  file->read_table();
  if (verify)
    for (const Section& section : file->sections_)
      if (xxh64(file->data_ + section.offset, section.bytes) != section.checksum)
        file->fail("section '" + section.name + "' does not match its checksum; the file is damaged");
  return file;
}

SectionFile::~SectionFile() {
  if (data_) ::munmap(const_cast<unsigned char*>(data_), bytes_);
}

void SectionFile::read_table() {
  Header header;
  std::memcpy(&header, data_, sizeof(header));
  if (std::string_view(header.magic, sizeof(header.magic)) != kind_.magic) fail("it does not begin as one");
  if (header.version < kind_.oldest || header.version > kind_.version)
    fail("it has version " + std::to_string(header.version) + ", this engine reads version " +
         (kind_.oldest < kind_.version ? std::to_string(kind_.oldest) + " to " : "") + std::to_string(kind_.version));
  if (xxh64(&header, sizeof(header) - sizeof(header.checksum)) != header.checksum) fail("the header does not match its checksum; the file is damaged");
  if (header.file_bytes != bytes_)
    fail("it should have " + std::to_string(header.file_bytes) + " bytes and has " + std::to_string(bytes_) + "; it is cut short or was appended to");
  if (header.count > kSectionsMax || kHeaderBytes + header.count * kEntryBytes > bytes_) fail("its table does not fit into it");
  std::vector<Entry> table(header.count);
  if (header.count) std::memcpy(table.data(), data_ + kHeaderBytes, table.size() * sizeof(Entry));
  if (xxh64(table.data(), table.size() * sizeof(Entry)) != header.table_checksum) fail("the table does not match its checksum; the file is damaged");
  for (const Entry& entry : table) {
    const std::string name(entry.name, strnlen(entry.name, kNameBytes));
    if (entry.offset % kAlignment != 0 || entry.offset > bytes_ || entry.bytes > bytes_ - entry.offset) fail("section '" + name + "' lies outside of it");
    if (has(name)) fail("section '" + name + "' is there twice");
    sections_.push_back({name, entry.offset, entry.bytes, entry.checksum});
  }
}

bool SectionFile::has(std::string_view name) const {
  return std::any_of(sections_.begin(), sections_.end(), [&](const Section& s) { return s.name == name; });
}

const SectionFile::Section& SectionFile::find(std::string_view name) const {
  for (const Section& section : sections_)
    if (section.name == name) return section;
  fail("section '" + std::string(name) + "' is missing");
}

void SectionFile::fail(const std::string& problem) const {
  throw Error(kind_.error, path_ + " is not a usable " + std::string(kind_.noun) + ": " + problem);
}

}  // namespace aitems
