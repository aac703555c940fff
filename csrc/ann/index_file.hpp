// An index as one section file (base/section_file.hpp), version 4 (1 had no graph, in 2 each row had as many places for
// neighbours, 3 had no signs; all are read). Sections, all of fixed element types:
//   meta        int64: metric, format, dim, lists, items, rows, lists asked for, iterations, seed, attributes
//   plan        int32 triples k, probes, shortlist: those for the target, a triple of zeros, those for filters; then,
//               each after zeros again, the walks' (beam in place of probes) and the signs'
//   ids by_id present vectors|halves [codes scales biases list_blocks norms c.codes c.scales c.biases]   as in segment.hpp
//   aN.starts aN.rows                                                                                   postings of attribute N
//   s.codes s.factors                                                                                   signs, if there are any (signs.hpp)
//   g.meta g.starts g.neighbours g.codes g.levels g.scales [g.biases]   the graph, if there is one (graph.hpp); meta int64: degree, linked, reached
//   notes       bytes of the caller's: names, values, string ids
#pragma once

#include <memory>
#include <string>

#include "ann/index.hpp"

namespace aitems::ann {

// Writes the current segment; call compact() first, as added and deleted rows are not stored. `notes` is kept as it is.
void save_index(const Index& index, const std::string& notes, const std::string& path);

struct OpenedIndex {
  std::unique_ptr<Index> index;
  std::string notes;
};
// Maps a file. Structure is always checked, so that no damaged file can make a search read outside of it.
OpenedIndex open_index(const std::string& path, bool verify);

}  // namespace aitems::ann
