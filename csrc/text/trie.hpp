// A byte trie in a double array: one addition and one comparison a byte, no hashing. Immutable after building.
// Source: Aoe, "An efficient digital search algorithm by using a double-array structure" (1989).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace aitems::text {

class Trie {
 public:
  Trie() : Trie(std::vector<std::pair<std::string, std::int32_t>>{}) {}
  // Keys must not be empty; of equal keys the last one counts. Values are >= 0.
  explicit Trie(std::vector<std::pair<std::string, std::int32_t>> entries);

  static constexpr std::int32_t kRoot = 0;
  // The node reached from `node` by a byte, or -1.
  std::int32_t step(std::int32_t node, std::uint8_t byte) const {
    const std::int32_t next = nodes_[static_cast<std::size_t>(node)].base + byte;
    return nodes_[static_cast<std::size_t>(next)].check == node ? next : -1;
  }
  // The value of the key that ends at a node, or -1.
  std::int32_t value(std::int32_t node) const { return nodes_[static_cast<std::size_t>(node)].value; }
  // The value of a whole key, or -1.
  std::int32_t find(const std::uint8_t* key, std::size_t size) const {
    std::int32_t node = kRoot;
    for (std::size_t i = 0; i < size && node >= 0; ++i) node = step(node, key[i]);
    return node < 0 ? -1 : value(node);
  }
  std::int32_t find(std::string_view key) const { return find(reinterpret_cast<const std::uint8_t*>(key.data()), key.size()); }

 private:
  struct Node {
    std::int32_t base = 0, check = -1, value = -1;
  };
  std::vector<Node> nodes_;
};

}  // namespace aitems::text
