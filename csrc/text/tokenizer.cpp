#include "text/tokenizer.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "simd/kernels.hpp"
#include "text/word_memo.hpp"

namespace aitems::text {
namespace {

// The exact path keeps a few hundred bytes a code point and 32-bit positions; longer "texts" are files.
constexpr std::size_t kMaxText = std::size_t{1} << 26;
constexpr std::size_t kFastBytes = std::size_t{1} << 20;  // longer texts take the exact path: buffers stay small

// Code points of a text; surrogates and ill-formed UTF-8 become U+FFFD and are counted.
std::int64_t decode(const TextRef& text, std::vector<std::uint32_t>& out) {
  std::int64_t replaced = 0;
  const auto push = [&](std::uint32_t cp) {
    const bool surrogate = cp - 0xD800 < 0x800 || cp > 0x10FFFF;
    replaced += surrogate;
    out.push_back(surrogate ? kReplacement : cp);
  };
  out.reserve(out.size() + text.size);
  switch (text.unit) {
    case 1:
      for (std::size_t i = 0; i < text.size; ++i) out.push_back(static_cast<const std::uint8_t*>(text.data)[i]);
      break;
    case 2:
      for (std::size_t i = 0; i < text.size; ++i) push(static_cast<const std::uint16_t*>(text.data)[i]);
      break;
    case 4:
      for (std::size_t i = 0; i < text.size; ++i) push(static_cast<const std::uint32_t*>(text.data)[i]);
      break;
    default: {
      const auto* p = static_cast<const std::uint8_t*>(text.data);
      const auto* end = p + text.size;
      while (p < end) {
        bool bad = false;
        out.push_back(decode_utf8(p, end, bad));
        replaced += bad;
      }
    }
  }
  return replaced;
}

// UTF-8 of a str's code units (1, 2 or 4 bytes each); surrogates become U+FFFD. Room for 4 bytes a unit and 3 more. Without
// branches on the length: scripts alternate at every word of a title.
template <class Unit>
std::size_t transcode(const Unit* units, std::size_t count, std::uint8_t* out, std::int64_t& replaced) {
  std::uint8_t* p = out;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t c = units[i];
    if constexpr (sizeof(Unit) > 1) {
      if (c - 0xD800 < 0x800 || c > 0x10FFFF) {
        ++replaced;
        c = kReplacement;
      }
    }
    if (sizeof(Unit) > 2 && c >= 0x10000) {
      *p++ = static_cast<std::uint8_t>(0xF0 | c >> 18);
      *p++ = static_cast<std::uint8_t>(0x80 | (c >> 12 & 63));
      *p++ = static_cast<std::uint8_t>(0x80 | (c >> 6 & 63));
      *p++ = static_cast<std::uint8_t>(0x80 | (c & 63));
      continue;
    }
    const std::uint32_t one = c;
    const std::uint32_t two = 0x80C0 | c >> 6 | (c & 63) << 8;
    const std::uint32_t three = 0x8080E0 | c >> 12 | (c >> 6 & 63) << 8 | (c & 63) << 16;
    const std::uint32_t bytes = c < 0x80 ? one : c < 0x800 ? two : three;
    std::memcpy(p, &bytes, 4);
    p += 1 + (c >= 0x80) + (c >= 0x800);
  }
  return static_cast<std::size_t>(p - out);
}

}  // namespace

struct Tokenizer::Worker {
  // exact path
  Text input, part, text, scratch;
  std::vector<Piece> raw, pieces;
  std::string word;
  std::vector<std::uint32_t> starts;  // of each code point in `word`
  WordTokens tokens;
  // fast path
  static constexpr std::size_t kLead = 64, kSlack = 128;
  std::vector<std::uint8_t> source, buffer;  // UTF-8 of the input; normalised text from kLead on
  std::vector<TextBlock> blocks;
  std::vector<ClassPatch> patches;
  std::vector<std::int32_t> begins, ends, contracted;
  WordMemo memo;

  // Room for a text of `size` bytes.
  void fit(std::size_t size) {
    if (buffer.size() < size + kLead + kSlack) buffer.resize(2 * size + kLead + kSlack);
    if (begins.size() < size + 2) {
      begins.resize(2 * size + 64);
      ends.resize(2 * size + 64);
      contracted.resize(2 * size + 64);
      blocks.resize(2 * size / 64 + 4);
    }
  }
  std::uint8_t* normalized() { return buffer.data() + kLead; }
};

Tokenizer::Tokenizer(const TokenizerSpec& spec, Isa isa)
    : normalizer_(spec.normalizer), pre_tokenizer_(spec.pre_tokenizer), raw_added_(spec.added, false, normalizer_),
      normalized_added_(spec.added, true, normalizer_), model_(make_model(spec.model)), before_(spec.prefix_ids),
      after_(spec.suffix_ids), isa_(isa), kernels_(kernels(isa).text), scheme_(scheme_of(pre_tokenizer_)),
      context_free_(normalizer_, scheme_) {
  for (const auto& step : pre_tokenizer_.steps()) {
    if (step.kind == PreTokenizer::Kind::kMetaspace && (step.flags & 2)) needs_spans_ = prefix_first_ = true;
    if (step.kind == PreTokenizer::Kind::kPrefixSpace || (step.kind == PreTokenizer::Kind::kMetaspace && (step.flags & 3))) prefix_ = true;
    if (scheme_ == Scheme::kMetaspace) append_utf8(step.text[0], mark_);
  }
  const auto trie_of = [](const AddedTokens& tokens) {
    std::vector<std::pair<std::string, std::int32_t>> entries;
    for (const std::string& content : tokens.contents()) entries.emplace_back(content, 0);
    return Trie(std::move(entries));
  };
  raw_trie_ = trie_of(raw_added_);
  normalized_trie_ = trie_of(normalized_added_);
  std::vector<std::uint8_t> firsts;
  for (const std::string& content : raw_added_.contents()) {
    const auto first = static_cast<std::uint8_t>(content[0]);
    if (!trigger_bytes_[first]) firsts.push_back(first);
    trigger_bytes_[first] = true;
  }
  scan_all_ = firsts.size() > 2;
  scan_.trigger[0] = firsts.empty() || scan_all_ ? 0xFF : firsts.front();
  scan_.trigger[1] = firsts.empty() || scan_all_ ? 0xFF : firsts.back();
  if (scheme_ == Scheme::kNone) return;
  bool fold = false;
  fast_ = context_free_.plain(fold, controls_plain_);
  scan_.fold = fold;
}

Tokenizer::~Tokenizer() {
  for (auto& slot : idle_) delete slot.load();
}

std::unique_ptr<Tokenizer::Worker> Tokenizer::take_worker() const {
  for (auto& slot : idle_)
    if (Worker* worker = slot.exchange(nullptr, std::memory_order_acquire)) return std::unique_ptr<Worker>(worker);
  return std::make_unique<Worker>();
}

void Tokenizer::give_back(std::unique_ptr<Worker> worker) const {
  for (auto& slot : idle_) {
    Worker* expected = nullptr;
    if (slot.compare_exchange_strong(expected, worker.get(), std::memory_order_release)) {
      worker.release();
      return;
    }
  }
}

// Words of the fast path hold blanks where the model knows the mark; on the exact path they hold the mark already.
void Tokenizer::encode_word(const std::uint8_t* word, std::size_t size, Worker& worker, Encoded::Arena& arena) const {
  WordMemo::Key key{};
  std::uint64_t hash = 0;
  if (size <= WordMemo::kShort) {
    key = WordMemo::key_of(word, size);
    if (const auto* entry = worker.memo.find(key, size)) return arena.ids.append(entry->ids, entry->count);
  } else if (size <= WordMemo::kLong) {
    hash = WordMemo::hash_of(word, size);
    if (const auto* entry = worker.memo.find(hash, word, size)) return arena.ids.append(entry->ids, entry->count);
  }
  const std::uint8_t* marked = word;
  std::size_t marked_size = size;
  if (!mark_.empty() && std::memchr(word, ' ', size)) {
    worker.starts.clear();
    std::string& text = worker.word;
    text.clear();
    for (std::size_t i = 0; i < size; ++i) {
      if (word[i] == ' ') text += mark_;
      else text += static_cast<char>(word[i]);
    }
    marked = reinterpret_cast<const std::uint8_t*>(text.data());
    marked_size = text.size();
  }
  model_->encode(marked, marked_size, worker.tokens);
  const auto& ids = worker.tokens.ids;
  if (size <= WordMemo::kShort) worker.memo.store(key, size, ids.data(), ids.size());
  else if (size <= WordMemo::kLong) worker.memo.store(hash, word, size, ids.data(), ids.size());
  arena.ids.append(ids.data(), ids.size());
}

bool Tokenizer::holds_added(const AddedTokens& tokens, const Trie& trie, const std::uint8_t* text, std::size_t size, const TextBlock* blocks) const {
  if (tokens.empty()) return false;
  const auto at = [&](std::size_t i) {
    std::int32_t node = Trie::kRoot;
    for (; i < size && (node = trie.step(node, text[i])) >= 0; ++i)
      if (trie.value(node) >= 0) return true;
    return false;
  };
  if (blocks) {
    for (std::size_t base = 0; base < size; base += 64, ++blocks)
      for (std::uint64_t bits = blocks->trigger; bits; bits &= bits - 1)
        if (at(base + static_cast<std::size_t>(std::countr_zero(bits)))) return true;
    return false;
  }
  for (std::size_t i = 0; i < size; ++i)
    if (at(i)) return true;
  return false;
}

std::size_t Tokenizer::normalize_by_character(const std::uint8_t* text, std::size_t size, Worker& worker, const ClassPatch*& patches,
                                              std::int64_t& replaced) const {
  struct Odd {
    std::uint32_t at;
    std::uint8_t size;
    CharClass kind;
  };
  std::vector<Odd> odd;
  const std::uint8_t *p = text, *end = text + size;
  std::size_t out = 0;
  std::int64_t bad_count = 0;
  worker.fit(size);
  while (p < end) {
    if (worker.buffer.size() < Worker::kLead + Worker::kSlack + out + 16) worker.fit(2 * out);
    bool bad = false;
    const ContextFree::Entry& entry = context_free_[decode_utf8(p, end, bad)];
    if (entry.size == ContextFree::kDepends) return kExact;
    if (prefix_first_ && out == 0 && entry.size == 0) return kExact;  // whether the input starts here is not known
    bad_count += bad;
    std::memcpy(worker.normalized() + out, entry.bytes, sizeof(entry.bytes));
    if (entry.kind != CharClass::kLetter) odd.push_back({static_cast<std::uint32_t>(out), entry.size, entry.kind});
    out += entry.size;
  }
  worker.fit(out);
  std::memset(worker.normalized() + out, 0, Worker::kSlack / 2);
  TextScan scan = scan_;
  scan.fold = 0;
  kernels_->scan(worker.normalized(), out, worker.normalized(), worker.blocks.data(), &scan);
  patches = nullptr;
  if (!odd.empty()) {
    worker.patches.assign(out / 64 + 1, {});
    for (const Odd& o : odd)
      for (std::uint32_t at = o.at; at < o.at + o.size; ++at) {
        ClassPatch& patch = worker.patches[at / 64];
        const std::uint64_t bit = std::uint64_t{1} << (at % 64);
        if (scheme_ == Scheme::kMetaspace && at > o.at) continue;  // a mark begins a word at its first byte only
        if (o.kind == CharClass::kSpace) patch.space |= bit;
        if (o.kind == CharClass::kDigit) patch.digit |= bit;
        if (o.kind == CharClass::kOther) patch.other |= bit;
        if (o.kind == CharClass::kOther && at > o.at) patch.tail |= bit;
      }
    patches = worker.patches.data();
  }
  replaced += bad_count;
  return out;
}

std::size_t Tokenizer::normalize_fast(const TextRef& ref, Worker& worker, const ClassPatch*& patches, std::int64_t& replaced) const {
  const auto* text = static_cast<const std::uint8_t*>(ref.data);
  std::size_t size = ref.size;
  std::int64_t surrogates = 0;
  if (ref.unit) {
    if (worker.source.size() < 4 * size + 8) worker.source.resize(8 * size + 64);
    std::uint8_t* to = worker.source.data();
    if (ref.unit == 1) size = transcode(text, size, to, surrogates);
    else if (ref.unit == 2) size = transcode(static_cast<const std::uint16_t*>(ref.data), size, to, surrogates);
    else size = transcode(static_cast<const std::uint32_t*>(ref.data), size, to, surrogates);
    text = to;
  }
  if (size > kFastBytes) return kExact;
  worker.fit(size);
  if (fast_) {
    const std::uint32_t flags = kernels_->scan(text, size, worker.normalized(), worker.blocks.data(), &scan_);
    if (scan_all_ || (flags & kTextTrigger))
      if (holds_added(raw_added_, raw_trie_, text, size, scan_all_ ? nullptr : worker.blocks.data())) return kExact;
    if (!(flags & kTextNotPlain) && (controls_plain_ || !(flags & kTextControl))) {
      patches = nullptr;
      replaced += surrogates;
      return size;
    }
  } else if (holds_added(raw_added_, raw_trie_, text, size, nullptr)) {
    return kExact;
  }
  const std::size_t out = normalize_by_character(text, size, worker, patches, replaced);
  if (out != kExact) replaced += surrogates;
  return out;
}

bool Tokenizer::encode_fast(const TextRef& ref, const EncodeOptions& options, std::int32_t category, std::size_t room, Worker& worker,
                            Encoded::Arena& arena) const {
  const ClassPatch* patches = nullptr;
  std::int64_t replaced = 0;
  const std::size_t size = normalize_fast(ref, worker, patches, replaced);
  if (size == kExact) return false;
  std::uint8_t* text = worker.normalized();
  if (!normalized_added_.empty() && holds_added(normalized_added_, normalized_trie_, text, size, nullptr)) return false;
  if (options.keywords && options.keywords->found(text, size, category)) return false;
  const bool blank_first = size && text[0] == ' ';
  const bool space_first = scheme_ == Scheme::kGpt2 && prefix_ && size && !blank_first && worker.blocks[0].space & 1;
  if (space_first) return false;  // the blank before it would join a run of spaces
  if (options.normalized) arena.normalized.append(text, size);
  arena.replaced += replaced;
  if (!size) return true;

  std::int32_t *begins = worker.begins.data(), *ends = worker.ends.data();
  std::size_t words = segment(scheme_, size, worker.blocks.data(), patches, begins, ends);
  if (prefix_ && !blank_first && !(scheme_ == Scheme::kMetaspace && size >= mark_.size() && !std::memcmp(text, mark_.data(), mark_.size()))) {
    text[-1] = ' ';
    begins[0] = -1;
  }
  if (scheme_ == Scheme::kGpt2) words = split_contractions(text, size, words, begins, ends, worker.contracted.data());

  const std::size_t first = arena.ids.size();
  for (std::size_t k = 0; k < words && arena.ids.size() - first < room; ++k) {
    const std::uint8_t* word = text + begins[k];
    const auto length = static_cast<std::size_t>(ends[k] - begins[k]);
    if (length <= WordMemo::kShort) {
      const auto key = WordMemo::key_of(word, length);
      if (const auto* entry = worker.memo.find(key, length)) {
        arena.ids.reserve(WordMemo::kShortIds);
        std::memcpy(arena.ids.data() + arena.ids.size(), entry->ids, sizeof(entry->ids));
        arena.ids.set_size(arena.ids.size() + entry->count);
        continue;
      }
    }
    encode_word(word, length, worker, arena);
  }
  return true;
}

void Tokenizer::encode_exact(const TextRef& ref, const EncodeOptions& options, std::int32_t category, Worker& worker, Encoded::Arena& arena) const {
  Text& text = worker.text;
  Text& input = worker.input;
  input.clear();
  text.clear();
  const bool tracked = options.offsets || needs_spans_;
  text.tracked = input.tracked = tracked;
  arena.replaced += decode(ref, input.cps);
  const auto size = static_cast<std::uint32_t>(input.cps.size());
  if (tracked)
    for (std::uint32_t i = 0; i < size; ++i) input.spans.push_back({i, i + 1});

  worker.raw.clear();
  worker.pieces.clear();
  raw_added_.cut(input, 0, size, worker.raw);
  for (const Piece& raw : worker.raw) {
    const auto copy = [&](const Text& from, std::size_t begin, std::size_t end, Text& to) {
      to.cps.insert(to.cps.end(), from.cps.begin() + static_cast<std::ptrdiff_t>(begin), from.cps.begin() + static_cast<std::ptrdiff_t>(end));
      if (tracked)
        to.spans.insert(to.spans.end(), from.spans.begin() + static_cast<std::ptrdiff_t>(begin), from.spans.begin() + static_cast<std::ptrdiff_t>(end));
    };
    const auto base = static_cast<std::uint32_t>(text.cps.size());
    if (raw.added >= 0) {
      copy(input, raw.begin, raw.end, text);
      worker.pieces.push_back({base, static_cast<std::uint32_t>(text.cps.size()), raw.added});
      continue;
    }
    Text& part = worker.part;
    part.clear();
    part.tracked = tracked;
    copy(input, raw.begin, raw.end, part);
    normalizer_.apply(part, worker.scratch);
    copy(part, 0, part.cps.size(), text);
    normalized_added_.cut(text, base, static_cast<std::uint32_t>(text.cps.size()), worker.pieces);
  }
  if (options.keywords) options.keywords->remove(text, worker.pieces, category, worker.scratch);
  if (options.normalized) {
    worker.word.clear();
    for (std::uint32_t cp : text.cps) append_utf8(cp, worker.word);
    arena.normalized.append(reinterpret_cast<const std::uint8_t*>(worker.word.data()), worker.word.size());
  }

  pre_tokenizer_.apply(text, worker.pieces, worker.scratch);
  const auto emit = [&](std::int32_t id, std::uint32_t begin, std::uint32_t end) {  // [begin, end) of the text's code points
    arena.ids.push(id);
    if (options.offsets) arena.offsets.push(begin < end ? Span{text.spans[begin].begin, text.spans[end - 1].end} : Span{});
  };
  for (const Piece& piece : worker.pieces) {
    if (piece.added >= 0) {
      emit(piece.added, piece.begin, piece.end);
      continue;
    }
    if (piece.begin == piece.end) continue;
    worker.word.clear();
    worker.starts.clear();
    for (std::uint32_t i = piece.begin; i < piece.end; ++i) {
      worker.starts.push_back(static_cast<std::uint32_t>(worker.word.size()));
      append_utf8(text.cps[i], worker.word);
    }
    const std::size_t word_size = worker.word.size();
    if (!options.offsets) {
      worker.word.append(WordMemo::kReadAhead, '\0');
      encode_word(reinterpret_cast<const std::uint8_t*>(worker.word.data()), word_size, worker, arena);
      continue;
    }
    model_->encode(reinterpret_cast<const std::uint8_t*>(worker.word.data()), word_size, worker.tokens);
    std::uint32_t byte = 0;
    for (std::size_t k = 0; k < worker.tokens.ids.size(); ++k) {
      // the characters that hold the first and the last byte of the token
      const auto character = [&](std::uint32_t at) {
        return piece.begin + static_cast<std::uint32_t>(std::upper_bound(worker.starts.begin(), worker.starts.end(), at) - worker.starts.begin()) - 1;
      };
      const std::uint32_t end = byte + worker.tokens.bytes[k];
      emit(worker.tokens.ids[k], character(byte), byte < end ? character(end - 1) + 1 : character(byte));
      byte = end;
    }
  }
}

Encoded Tokenizer::encode(std::span<const TextRef> texts, const EncodeOptions& options) const {
  const auto around = options.add_special ? before_.size() + after_.size() : 0;
  if (options.max_length >= 0 && static_cast<std::size_t>(options.max_length) < around)
    throw Error(ErrorKind::kInvalidInput, "max_length must leave room for the " + std::to_string(around) +
                                              " tokens of the template, got " + std::to_string(options.max_length));
  const std::size_t room = options.max_length < 0 ? ~std::size_t{0} : static_cast<std::size_t>(options.max_length) - around;
  constexpr std::size_t kGrain = 256;  // titles a piece: some 100 us
  const auto slots = static_cast<std::size_t>(resolve_threads(options.threads));
  Encoded out;
  out.rows_.resize(texts.size());
  out.arenas_.resize(slots);
  std::vector<std::unique_ptr<Worker>> workers(slots);
  const bool fast = scheme_ != Scheme::kNone && !options.offsets;
  parallel_for(texts.size(), kGrain, options.threads, [&](std::size_t begin, std::size_t end, int slot) {
    auto& worker = workers[static_cast<std::size_t>(slot)];
    if (!worker) worker = take_worker();
    Encoded::Arena& arena = out.arenas_[static_cast<std::size_t>(slot)];
    auto& ids = arena.ids;
    for (std::size_t i = begin; i < end; ++i) {
      Encoded::Row& row = out.rows_[i];
      row.slot = static_cast<std::uint32_t>(slot);
      row.at = ids.size();
      row.normalized_at = arena.normalized.size();
      if (options.add_special) ids.append(before_.data(), before_.size());
      const std::size_t first = ids.size();
      const auto mark_outside = [&](std::size_t count) {  // tokens of the template lie nowhere
        if (options.offsets)
          for (std::size_t k = 0; k < count; ++k) arena.offsets.push({});
      };
      mark_outside(first - row.at);
      if (texts[i].size) {
        if (texts[i].size > kMaxText) throw Error(ErrorKind::kInvalidInput, "text " + std::to_string(i) + " is longer than " + std::to_string(kMaxText) + " characters or bytes");
        const std::int32_t category = options.categories ? options.categories[i] : -1;
        if (!fast || !encode_fast(texts[i], options, category, room, *worker, arena))
          encode_exact(texts[i], options, category, *worker, arena);
      }
      ids.set_size(first + std::min(ids.size() - first, room));
      if (options.offsets) arena.offsets.set_size(ids.size());
      if (options.add_special) ids.append(after_.data(), after_.size());
      if (options.add_special) mark_outside(after_.size());
      row.length = static_cast<std::uint32_t>(ids.size() - row.at);
      row.normalized_size = arena.normalized.size() - row.normalized_at;
    }
  });
  for (auto& worker : workers)
    if (worker) give_back(std::move(worker));
  for (const Encoded::Row& row : out.rows_) {
    out.longest_ = std::max<std::int64_t>(out.longest_, row.length);
    out.tokens_ += row.length;
    out.normalized_bytes_ += static_cast<std::int64_t>(row.normalized_size);
  }
  for (const Encoded::Arena& arena : out.arenas_) out.replaced_ += arena.replaced;
  return out;
}

void Encoded::copy_padded(std::int32_t* ids, std::int64_t width, std::int32_t pad, int threads) const {
  parallel_for(rows_.size(), 4096, threads, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t i = begin; i < end; ++i) {
      const auto kept = std::min<std::int64_t>(rows_[i].length, width);
      std::int32_t* row = ids + static_cast<std::int64_t>(i) * width;
      if (kept) std::memcpy(row, arenas_[rows_[i].slot].ids.data() + rows_[i].at, static_cast<std::size_t>(kept) * sizeof(*row));
      std::fill(row + kept, row + width, pad);
    }
  });
}

void Encoded::copy_lengths(std::int32_t* lengths, std::int64_t width) const {
  for (std::size_t i = 0; i < rows_.size(); ++i)
    lengths[i] = static_cast<std::int32_t>(std::min<std::int64_t>(rows_[i].length, width));
}

void Encoded::copy_splits(std::int64_t* splits) const {
  splits[0] = 0;
  for (std::size_t i = 0; i < rows_.size(); ++i) splits[i + 1] = splits[i] + rows_[i].length;
}

void Encoded::copy_flat(std::int32_t* ids) const {
  for (const Row& row : rows_)
    ids = std::copy_n(arenas_[row.slot].ids.data() + row.at, row.length, ids);
}

void Encoded::copy_offsets_flat(Span* offsets) const {
  for (const Row& row : rows_)
    offsets = std::copy_n(arenas_[row.slot].offsets.data() + row.at, row.length, offsets);
}

void Encoded::copy_offsets_padded(Span* offsets, std::int64_t width) const {
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    Span* row = offsets + static_cast<std::int64_t>(i) * width;
    const auto kept = std::min<std::int64_t>(rows_[i].length, width);
    std::copy_n(arenas_[rows_[i].slot].offsets.data() + rows_[i].at, kept, row);
    std::fill(row + kept, row + width, Span{});
  }
}

void Encoded::copy_normalized(std::uint8_t* data, std::int64_t* offsets) const {
  offsets[0] = 0;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const Row& row = rows_[i];
    if (row.normalized_size) std::memcpy(data + offsets[i], arenas_[row.slot].normalized.data() + row.normalized_at, row.normalized_size);
    offsets[i + 1] = offsets[i] + static_cast<std::int64_t>(row.normalized_size);
  }
}

}  // namespace aitems::text
