#include "text/tokenizer.hpp"

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "base/thread_pool.hpp"

namespace aitems::text {
namespace {

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

}  // namespace

struct Tokenizer::Worker {
  Text input, part, text, scratch;
  std::vector<Piece> raw, pieces;
  std::string word;
  std::vector<std::uint32_t> starts;  // of each code point in `word`
  WordTokens tokens;
};

Tokenizer::Tokenizer(const TokenizerSpec& spec, Isa isa)
    : normalizer_(spec.normalizer), pre_tokenizer_(spec.pre_tokenizer), raw_added_(spec.added, false, normalizer_),
      normalized_added_(spec.added, true, normalizer_), model_(make_model(spec.model)), prefix_(spec.prefix_ids),
      suffix_(spec.suffix_ids), isa_(isa) {
  for (const auto& step : pre_tokenizer_.steps())
    needs_spans_ |= step.kind == PreTokenizer::Kind::kMetaspace && (step.flags & 2);
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

void Tokenizer::encode_exact(const TextRef& ref, const EncodeOptions& options, Worker& worker, Encoded::Arena& arena) const {
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
  if (options.normalized)
    for (std::uint32_t cp : text.cps) append_utf8(cp, arena.normalized);

  pre_tokenizer_.apply(text, worker.pieces, worker.scratch);
  const auto emit = [&](std::int32_t id, std::uint32_t begin, std::uint32_t end) {  // [begin, end) of the text's code points
    arena.ids.push_back(id);
    if (options.offsets) arena.offsets.push_back(begin < end ? Span{text.spans[begin].begin, text.spans[end - 1].end} : Span{});
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
    model_->encode(reinterpret_cast<const std::uint8_t*>(worker.word.data()), worker.word.size(), worker.tokens);
    if (!options.offsets) {
      arena.ids.insert(arena.ids.end(), worker.tokens.ids.begin(), worker.tokens.ids.end());
      continue;
    }
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
  const auto around = options.add_special ? prefix_.size() + suffix_.size() : 0;
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
  parallel_for(texts.size(), kGrain, options.threads, [&](std::size_t begin, std::size_t end, int slot) {
    auto& worker = workers[static_cast<std::size_t>(slot)];
    if (!worker) worker = take_worker();
    Encoded::Arena& arena = out.arenas_[static_cast<std::size_t>(slot)];
    for (std::size_t i = begin; i < end; ++i) {
      Encoded::Row& row = out.rows_[i];
      row.slot = static_cast<std::uint32_t>(slot);
      row.at = arena.ids.size();
      row.normalized_at = arena.normalized.size();
      if (options.add_special) arena.ids.insert(arena.ids.end(), prefix_.begin(), prefix_.end());
      if (options.offsets) arena.offsets.resize(arena.ids.size());
      const std::size_t first = arena.ids.size();
      if (texts[i].size) encode_exact(texts[i], options, *worker, arena);
      arena.ids.resize(first + std::min(arena.ids.size() - first, room));
      if (options.add_special) arena.ids.insert(arena.ids.end(), suffix_.begin(), suffix_.end());
      if (options.offsets) {
        const std::size_t kept = arena.ids.size() - (options.add_special ? suffix_.size() : 0);
        arena.offsets.resize(kept);
        arena.offsets.resize(arena.ids.size());
      }
      row.length = static_cast<std::uint32_t>(arena.ids.size() - row.at);
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
