// A whole tokeniser: added tokens -> normaliser -> pre-tokeniser -> model -> template, for a batch of texts on several threads.
// Knows no file format and no Python. Immutable after construction; encode() may be called from many threads at once.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "simd/isa.hpp"
#include "text/added_tokens.hpp"
#include "text/context_free.hpp"
#include "text/keywords.hpp"
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
  const KeywordRules* keywords = nullptr;      // taken out of the normalised texts
  const std::int32_t* categories = nullptr;    // one a text, -1 = none; null = none for all
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
  // Memory that grows without being filled.
  template <class T>
  class Growing {
   public:
    T* data() { return data_.get(); }
    const T* data() const { return data_.get(); }
    std::size_t size() const { return size_; }
    void set_size(std::size_t size) { size_ = size; }
    // Room for `count` more; keeps what is there.
    void reserve(std::size_t count) {
      if (size_ + count > capacity_) grow(count);
    }
    void push(T value) {
      reserve(1);
      data_[size_++] = value;
    }
    void append(const T* values, std::size_t count) {
      reserve(count);
      if (count) std::memcpy(data_.get() + size_, values, count * sizeof(T));
      size_ += count;
    }

   private:
    void grow(std::size_t count) {
      capacity_ = std::max(2 * capacity_, size_ + count + 1024);
      std::unique_ptr<T[]> larger(new T[capacity_]);
      if (size_) std::memcpy(larger.get(), data_.get(), size_ * sizeof(T));
      data_ = std::move(larger);
    }
    std::unique_ptr<T[]> data_;
    std::size_t size_ = 0, capacity_ = 0;
  };
  struct Arena {
    Growing<std::int32_t> ids;
    Growing<Span> offsets;
    Growing<std::uint8_t> normalized;
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
  const Normalizer& normalizer() const { return normalizer_; }

 private:
  struct Worker;
  // Both append the tokens of a text to the arena, `room` at most (the exact one may append more). encode_fast returns false,
  // with nothing appended, where only the exact path will do.
  bool encode_fast(const TextRef& text, const EncodeOptions& options, std::int32_t category, std::size_t room, Worker& worker, Encoded::Arena& arena) const;
  void encode_exact(const TextRef& text, const EncodeOptions& options, std::int32_t category, Worker& worker, Encoded::Arena& arena) const;
  // Normalises into the buffers of the worker; returns the size, or kExact.
  std::size_t normalize_fast(const TextRef& text, Worker& worker, const ClassPatch*& patches, std::int64_t& replaced) const;
  std::size_t normalize_by_character(const std::uint8_t* text, std::size_t size, Worker& worker, const ClassPatch*& patches, std::int64_t& replaced) const;
  bool holds_added(const AddedTokens& tokens, const Trie& trie, const std::uint8_t* text, std::size_t size, const TextBlock* blocks) const;
  void encode_word(const std::uint8_t* word, std::size_t size, Worker& worker, Encoded::Arena& arena) const;
  static constexpr std::size_t kExact = ~std::size_t{0};
  std::unique_ptr<Worker> take_worker() const;
  void give_back(std::unique_ptr<Worker> worker) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  AddedTokens raw_added_, normalized_added_;
  std::unique_ptr<Model> model_;
  std::vector<std::int32_t> before_, after_;  // the template
  Isa isa_;
  const TextKernels* kernels_;
  bool needs_spans_ = false;

  // the fast path
  Scheme scheme_;
  ContextFree context_free_;
  Trie raw_trie_, normalized_trie_;   // added tokens, to see whether a text holds any
  bool fast_ = false;                 // ASCII and Hangul stay as they are (but for lower case)
  bool controls_plain_ = false;       // control characters as well
  TextScan scan_{};
  bool scan_all_ = false;             // too many first bytes for the vector pass: look at every byte
  bool trigger_bytes_[256] = {};
  bool prefix_ = false, prefix_first_ = false;  // a mark is put before the text
  std::string mark_;                  // what stands for a blank in words (Metaspace)

  // Idle workers. Exchanged without a lock, so that a child of fork() never waits for a thread that it does not have.
  static constexpr std::size_t kIdleWorkers = 16;
  mutable std::atomic<Worker*> idle_[kIdleWorkers] = {};
};

}  // namespace aitems::text
