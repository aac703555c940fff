// A whole tokeniser: added tokens -> normaliser -> pre-tokeniser -> model -> template, for a batch of texts on several threads.
// Knows no file format and no Python. Immutable after construction; encode() may be called from many threads at once.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "simd/isa.hpp"
#include "text/added_tokens.hpp"
#include "text/model.hpp"
#include "text/normalizer.hpp"
#include "text/pre_tokenizer.hpp"

namespace aitems::text {

struct TokenizerSpec {
  std::vector<ComponentSpec> normalizer, pre_tokenizer;
  ModelSpec model;
  std::vector<AddedTokenSpec> added;
  std::vector<std::int32_t> prefix_ids, suffix_ids;  // what the template puts around a text
};

// One input text. `unit` is the bytes a code unit has: 1 = Latin-1, 2 = UCS-2, 4 = UCS-4 (as Python stores str), 0 = UTF-8.
struct TextRef {
  const void* data = nullptr;
  std::size_t size = 0;  // in units
  int unit = 0;
};

struct EncodeOptions {
  std::int64_t max_length = -1;  // tokens a text, with the template; -1 = no limit
  bool add_special = true, offsets = false, normalized = false;
  int threads = 1;
};

// What encode() leaves: rows in pieces of memory a thread each, to be copied to their final place once the sizes are known.
class Encoded {
 public:
  std::size_t rows() const { return rows_.size(); }
  std::int64_t longest() const { return longest_; }
  std::int64_t tokens() const { return tokens_; }
  std::int64_t normalized_bytes() const { return normalized_bytes_; }
  std::int64_t replaced() const { return replaced_; }
  // (rows, width), filled with `pad`; rows longer than the width are cut.
  void copy_padded(std::int32_t* ids, std::int64_t width, std::int32_t pad, int threads) const;
  void copy_lengths(std::int32_t* lengths, std::int64_t width) const;
  void copy_splits(std::int64_t* splits) const;      // (rows + 1,)
  void copy_flat(std::int32_t* ids) const;           // (tokens,)
  void copy_offsets_flat(Span* offsets) const;       // (tokens,)
  void copy_offsets_padded(Span* offsets, std::int64_t width) const;
  void copy_normalized(std::uint8_t* data, std::int64_t* offsets) const;

 private:
  friend class Tokenizer;
  struct Row {
    std::uint32_t slot;
    std::uint32_t length;           // tokens
    std::uint64_t at;               // first token in the arena of the slot
    std::uint64_t normalized_at;
    std::uint64_t normalized_size;
  };
  struct Arena {
    std::vector<std::int32_t> ids;
    std::vector<Span> offsets;
    std::string normalized;
    std::int64_t replaced = 0;
  };
  std::vector<Row> rows_;
  std::vector<Arena> arenas_;
  std::int64_t longest_ = 0, tokens_ = 0, normalized_bytes_ = 0, replaced_ = 0;
};

class Tokenizer {
 public:
  Tokenizer(const TokenizerSpec& spec, Isa isa);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  Encoded encode(std::span<const TextRef> texts, const EncodeOptions& options) const;
  Isa isa() const { return isa_; }

 private:
  struct Worker;
  void encode_exact(const TextRef& text, const EncodeOptions& options, Worker& worker, Encoded::Arena& arena) const;
  std::unique_ptr<Worker> take_worker() const;
  void give_back(std::unique_ptr<Worker> worker) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  AddedTokens raw_added_, normalized_added_;
  std::unique_ptr<Model> model_;
  std::vector<std::int32_t> prefix_, suffix_;
  bool needs_spans_ = false;
  Isa isa_;
  // Idle workers. Exchanged without a lock, so that a child of fork() never waits for a thread that it does not have.
  static constexpr std::size_t kIdleWorkers = 16;
  mutable std::atomic<Worker*> idle_[kIdleWorkers] = {};
};

}  // namespace aitems::text
