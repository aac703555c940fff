#include "text/trie.hpp"

#include <algorithm>

namespace aitems::text {

Trie::Trie(std::vector<std::pair<std::string, std::int32_t>> entries) {
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  nodes_.resize(1024);
  nodes_[0].check = 0;  // the root is taken; its base is >= 1, so that no child lands on it and no step leads back
  nodes_[0].base = 1;
  std::size_t first_free = 1, highest = 0;

  struct Work {
    std::size_t low, high, depth;
    std::int32_t node;
  };
  std::vector<Work> stack;  // not recursion: a token may be long
  if (!entries.empty()) stack.push_back({0, entries.size(), 0, 0});
  std::vector<std::pair<std::uint8_t, std::pair<std::size_t, std::size_t>>> children;
  while (!stack.empty()) {
    Work work = stack.back();
    stack.pop_back();
    while (work.low < work.high && entries[work.low].first.size() == work.depth)
      nodes_[static_cast<std::size_t>(work.node)].value = entries[work.low++].second;
    if (work.low == work.high) continue;
    children.clear();
    for (std::size_t i = work.low; i < work.high;) {
      const char byte = entries[i].first[work.depth];
      std::size_t j = i;
      while (j < work.high && entries[j].first[work.depth] == byte) ++j;
      children.push_back({static_cast<std::uint8_t>(byte), {i, j}});
      i = j;
    }
    // The first base that leaves every child a free cell. Wide nodes look from a moving mark, so that a nearly full stretch
    // is not searched again and again.
    const std::size_t lowest = children.front().first;
    std::size_t base = first_free > lowest ? first_free - lowest : 1;
    for (std::size_t tries = 0;; ++base, ++tries) {
      if (base + 256 >= nodes_.size()) nodes_.resize(std::max(nodes_.size() * 3 / 2, base + 512));
      const bool fits = std::all_of(children.begin(), children.end(),
                                    [&](const auto& c) { return nodes_[base + c.first].check < 0; });
      if (fits) break;
      if (tries == 512) first_free = base + lowest;
    }
    nodes_[static_cast<std::size_t>(work.node)].base = static_cast<std::int32_t>(base);
    for (const auto& [byte, range] : children) {
      const std::size_t cell = base + byte;
      nodes_[cell].check = work.node;
      highest = std::max(highest, cell);
      stack.push_back({range.first, range.second, work.depth + 1, static_cast<std::int32_t>(cell)});
    }
    while (first_free < nodes_.size() && nodes_[first_free].check >= 0) ++first_free;
  }
  // Bases are at most `highest`, so that every step from a node stays inside.
  nodes_.resize(highest + 257);
  nodes_.shrink_to_fit();
  // A leaf has base 0: its steps must not find the children of the root at low cells by chance: check holds the parent, and a
  // leaf is nobody's parent, so they fail.
}

}  // namespace aitems::text
