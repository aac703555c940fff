#include "triton/tensors.hpp"

#include <charconv>
#include <cstring>

#include "base/error.hpp"

namespace aitems::triton {
namespace {

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

// Walks JSON that the server has written: it is well-formed, and keys have no escapes.
class Json {
 public:
  explicit Json(std::string_view text) : text_(text) {}

  // The value of a key of the object at hand, as it stands in the text; empty where there is none.
  std::string_view member(std::string_view key) {
    if (next() != '{') return {};
    take();
    while (next() == '"') {
      const std::string_view name = value();
      if (next() != ':') return {};
      take();
      const std::string_view found = value();
      if (name.size() == key.size() + 2 && name.substr(1, key.size()) == key) return found;
      if (next() == ',') take();
    }
    return {};
  }

 private:
  char next() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  void take() { ++at_; }

  std::string_view value() {
    next();
    const std::size_t begin = at_;
    int depth = 0;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_)
          if (text_[at_] == '\\') ++at_;
        if (at_ < text_.size()) ++at_;
        if (depth == 0) break;
        continue;
      }
      if (depth == 0 && (c == ',' || c == '}' || c == ']' || c == ':')) break;
      depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
      ++at_;
      if (depth == 0 && (c == '}' || c == ']')) break;
    }
    return text_.substr(begin, std::min(at_, text_.size()) - begin);
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

void read_texts(std::string_view name, const char* data, std::size_t size, int64_t count, std::vector<text::TextRef>& out) {
  const std::size_t before = out.size();
  std::size_t at = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t length = 0;
    if (size - at >= sizeof(length)) std::memcpy(&length, data + at, sizeof(length));
    if (size - at < sizeof(length) || size - at - sizeof(length) < length) {
      out.resize(before);
      invalid(std::string(name) + " ends within text " + std::to_string(i) + " of " + std::to_string(count) + ": it has " + std::to_string(size) + " bytes");
    }
    at += sizeof(length);
    out.push_back({data + at, length, 0});
    at += length;
  }
  if (at != size) {
    out.resize(before);
    invalid(std::string(name) + " has " + std::to_string(size - at) + " bytes behind its " + std::to_string(count) + " texts");
  }
}

void append_text(std::string_view text, std::string& out) {
  const auto length = static_cast<uint32_t>(text.size());
  out.append(reinterpret_cast<const char*>(&length), sizeof(length)).append(text);
}

std::string parameter(std::string_view config, std::string_view name) {
  const std::string_view parameters = Json(config).member("parameters"), one = Json(parameters).member(name), value = Json(one).member("string_value");
  return value.size() < 2 ? std::string() : std::string(value.substr(1, value.size() - 2));
}

int whole_number(std::string_view text, int most) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && number >= 1 && number <= most ? number : 0;
}

}  // namespace aitems::triton
