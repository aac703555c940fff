#include "category/classifier_file.hpp"

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

namespace aitems::category {
namespace {

constexpr SectionKind kClassifierFile{"AITEMSCL", 1, ErrorKind::kModelMismatch, "classifier file"};
constexpr float kTolerance = 1e-4f;

// One walk over the parts, for writing and for reading, so that both sides cannot differ. A number is as in memory; texts and
// arrays begin with their length.
class Packer {
 public:
  std::string bytes;

  template <class T>
  void number(T& value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  template <class T>
  void count(std::vector<T>& array) {
    uint64_t size = array.size();
    number(size);
  }
  void text(std::string& value) {
    uint64_t size = value.size();
    number(size);
    bytes += value;
  }
};

class Unpacker {
 public:
  Unpacker(const SectionFile& file, Column<char> bytes) : file_(file), at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  template <class T>
  void number(T& value) {
    std::memcpy(&value, take(sizeof(T)), sizeof(T));
  }
  // An element takes a byte at least: a damaged length cannot ask for more memory than the file has.
  template <class T>
  void count(std::vector<T>& array) {
    uint64_t size = 0;
    number(size);
    if (size > static_cast<uint64_t>(end_ - at_)) cut_short();
    array.resize(static_cast<std::size_t>(size));
  }
  void text(std::string& value) {
    uint64_t size = 0;
    number(size);
    const char* from = take(size);
    value.assign(from, from + size);
  }
  void finish() const {
    if (at_ != end_) file_.fail("its parts go on behind their end");
  }

 private:
  const char* take(uint64_t size) {
    if (size > static_cast<uint64_t>(end_ - at_)) cut_short();
    return std::exchange(at_, at_ + size);
  }
  [[noreturn]] void cut_short() const { file_.fail("its parts end too early"); }

  const SectionFile& file_;
  const char *at_, *end_;
};

template <class A, class T>
void walk(A& archive, T& value)
  requires std::is_arithmetic_v<T>
{
  archive.number(value);
}
template <class A>
void walk(A& archive, std::string& value) {
  archive.text(value);
}
template <class A>
void walk(A& archive, text::ComponentSpec& c) {
  walk(archive, c.kind), walk(archive, c.a), walk(archive, c.b), walk(archive, c.flags);
}
template <class A>
void walk(A& archive, text::AddedTokenSpec& t) {
  walk(archive, t.content), walk(archive, t.id), walk(archive, t.single_word), walk(archive, t.lstrip), walk(archive, t.rstrip), walk(archive, t.normalized);
}
template <class A>
void walk(A& archive, std::pair<std::string, int32_t>& token) {
  walk(archive, token.first), walk(archive, token.second);
}
template <class A>
void walk(A& archive, std::optional<std::string>& value) {
  uint8_t there = value.has_value();
  walk(archive, there);
  if (there) walk(archive, value ? *value : value.emplace());
}
template <class A>
void walk(A& archive, Recorded& r);
template <class A, class T>
void walk(A& archive, std::vector<T>& array) {
  archive.count(array);
  for (T& value : array) walk(archive, value);
}
template <class A>
void walk(A& archive, Recorded& r) {
  walk(archive, r.titles), walk(archive, r.malls), walk(archive, r.k), walk(archive, r.labels), walk(archive, r.probabilities), walk(archive, r.abstained);
}
template <class A>
void walk(A& archive, text::TokenizerSpec& t) {
  walk(archive, t.normalizer), walk(archive, t.pre_tokenizer), walk(archive, t.added), walk(archive, t.prefix_ids), walk(archive, t.suffix_ids);
  text::ModelSpec& m = t.model;
  walk(archive, m.type), walk(archive, m.vocab), walk(archive, m.unk_id), walk(archive, m.prefix), walk(archive, m.suffix), walk(archive, m.max_word_chars);
  walk(archive, m.fuse_unk), walk(archive, m.byte_fallback), walk(archive, m.ignore_merges), walk(archive, m.byte_level);
  walk(archive, m.scores), walk(archive, m.merges);
}
template <class A>
void walk(A& archive, TreeSpec& t) {
  walk(archive, t.order), walk(archive, t.node_begin), walk(archive, t.node_end), walk(archive, t.above), walk(archive, t.thresholds);
}
template <class A>
void walk(A& archive, ClassifierSpec& s) {
  walk(archive, s.tokenizer), walk(archive, s.max_title_length), walk(archive, s.max_mall_length);
  walk(archive, s.gram_min), walk(archive, s.gram_max), walk(archive, s.gram_buckets);
  walk(archive, s.leaf_ids), walk(archive, s.paths), walk(archive, s.tops), walk(archive, s.node_ids), walk(archive, s.node_paths);
  walk(archive, s.tree), walk(archive, s.bundle_digest);
}

struct TensorEntry {
  std::string name;
  std::vector<int64_t> shape;
};
template <class A>
void walk(A& archive, TensorEntry& t) {
  walk(archive, t.name), walk(archive, t.shape);
}

std::string tensor_section(std::size_t number) { return "tensor" + std::to_string(number); }

// Elements of a tensor; 0 for a shape that is none.
std::size_t elements(const std::vector<int64_t>& shape) {
  std::size_t size = 1;
  for (const int64_t n : shape)
    if (n < 1 || __builtin_mul_overflow(size, static_cast<std::size_t>(n), &size)) return 0;
  return size;
}

bool near(float a, float b) { return std::fabs(a - b) <= kTolerance; }

text::TextRef ref(const std::string& text) { return {text.data(), text.size(), 0}; }

// The same labels and probabilities within the tolerance; what is as good as tied may change places.
void check(const SectionFile& file, const Classifier& classifier, const Recorded& recorded) {
  const auto fail = [&](const std::string& what) {
    file.fail(what + ": this machine does not answer as the engine did where the file was written");
  };
  const std::size_t rows = recorded.titles.size(), k = static_cast<std::size_t>(recorded.k);
  if (recorded.k < 1 || recorded.labels.size() != rows * k || recorded.probabilities.size() != rows * k || recorded.abstained.size() != rows)
    file.fail("a recorded answer has the wrong size");
  std::vector<text::TextRef> titles;
  std::vector<std::optional<text::TextRef>> malls;
  for (const std::string& title : recorded.titles) titles.push_back(ref(title));
  for (const auto& mall : recorded.malls) malls.push_back(mall ? std::optional(ref(*mall)) : std::nullopt);
  const Answers found = classifier.classify(titles, malls, recorded.k, 1);
  if (found.k != k) fail("it gives " + std::to_string(found.k) + " labels, recorded were " + std::to_string(k));
  for (std::size_t i = 0; i < rows * k; ++i) {
    const std::size_t row = i / k, rank = i % k;
    const std::string where = "title '" + recorded.titles[row] + "', rank " + std::to_string(rank);
    const float* wanted = recorded.probabilities.data() + row * k;
    if (!near(found.probabilities[i], wanted[rank]))
      fail(where + ": the probability is " + std::to_string(found.probabilities[i]) + ", recorded was " + std::to_string(wanted[rank]));
    const bool tied = (rank > 0 && near(wanted[rank - 1], wanted[rank])) || (rank + 1 < k && near(wanted[rank + 1], wanted[rank]));
    if (recorded.labels[i] != found.labels[i] && !tied)
      fail(where + ": the leaf is number " + std::to_string(found.labels[i]) + ", recorded was " + std::to_string(recorded.labels[i]));
  }
  for (std::size_t row = 0; row < rows; ++row)
    if ((recorded.abstained[row] != 0) != (found.abstained[row] != 0)) fail("title '" + recorded.titles[row] + "': abstains otherwise than recorded");
}

}  // namespace

void write_classifier(const std::string& path, const ClassifierSpec& spec, const std::vector<Recorded>& recorded) {
  ClassifierSpec parts = spec;
  std::vector<Recorded> answers = recorded;
  std::vector<TensorEntry> entries;
  SectionWriter writer;
  for (const auto& [name, tensor] : spec.tensors) {
    writer.add(tensor_section(entries.size()), tensor.data, elements(tensor.shape) * sizeof(float));
    entries.push_back({name, tensor.shape});
  }
  Packer packer;
  walk(packer, parts), walk(packer, answers), walk(packer, entries);
  writer.add("parts", packer.bytes.data(), packer.bytes.size());
  writer.write(path, kClassifierFile);
}

OpenedClassifier open_classifier(const std::string& path, textcnn::Mode mode, Isa isa) {
  const auto file = SectionFile::open(path, kClassifierFile, true);
  ClassifierSpec spec;
  OpenedClassifier opened;
  std::vector<TensorEntry> entries;
  Unpacker unpacker(*file, file->column<char>("parts"));
  walk(unpacker, spec), walk(unpacker, opened.recorded), walk(unpacker, entries);
  unpacker.finish();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const Column<float> data = file->column<float>(tensor_section(i));
    if (data.empty() || data.size() != elements(entries[i].shape)) file->fail("tensor '" + entries[i].name + "' has another size than its shape says");
    spec.tensors[entries[i].name] = {data.data(), entries[i].shape};
  }
  try {
    opened.classifier = std::make_unique<Classifier>(std::move(spec), mode, isa);
  } catch (const Error& error) {
    file->fail(error.what());
  }
  for (const Recorded& recorded : opened.recorded) check(*file, *opened.classifier, recorded);
  return opened;
}

}  // namespace aitems::category
