// The parts of csrc/text that Python cannot reach one by one: the vector pass at every level, the trie, the word memo, UTF-8.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "simd/kernels.hpp"
#include "simd/text_kernels.hpp"
#include "text/text.hpp"
#include "text/tokenizer.hpp"
#include "text/trie.hpp"
#include "text/unicode.hpp"
#include "text/word_memo.hpp"

namespace aitems::text {
namespace {

const std::uint8_t* bytes(const std::string& s) { return reinterpret_cast<const std::uint8_t*>(s.data()); }

// The obvious twin of the vector pass.
std::uint32_t slow_scan(const std::string& text, const TextScan& options, std::string& copy, std::vector<TextBlock>& blocks) {
  blocks.assign(text.size() / 64 + 1, TextBlock{});
  copy = text;
  std::uint32_t flags = 0;
  const std::uint8_t *p = bytes(text), *end = p + text.size();
  while (p < end) {
    bool bad = false;
    const std::uint32_t cp = decode_utf8(p, end, bad);
    if (bad || (cp >= 0x80 && !(cp >= 0xAC00 && cp <= 0xD7A3))) flags |= kTextNotPlain;
    if (cp < 32 || cp == 127) flags |= kTextControl;
  }
  for (std::size_t i = 0; i < text.size(); ++i) {
    auto c = static_cast<std::uint8_t>(text[i]);
    TextBlock& b = blocks[i / 64];
    const std::uint64_t bit = std::uint64_t{1} << (i % 64);
    if (c == options.trigger[0] || c == options.trigger[1]) {
      b.trigger |= bit;
      flags |= kTextTrigger;
    }
    if (options.fold && c >= 'A' && c <= 'Z') c = static_cast<std::uint8_t>(c + 32);
    copy[i] = static_cast<char>(c);
    const bool alpha = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'), digit = c >= '0' && c <= '9';
    if (c == ' ') b.blank |= bit;
    if (c == ' ' || (c >= 9 && c <= 13)) b.space |= bit;
    if (digit) b.digit |= bit;
    if (alpha || digit || c >= 0x80) b.alnum |= bit;
    if (c == '_') b.underscore |= bit;
    if (c > 32 && c < 127 && !alpha && !digit && c != '_') b.punctuation |= bit;
  }
  return flags;
}

void compare_scans(const std::string& text, const TextScan& options) {
  std::string expected_copy;
  std::vector<TextBlock> expected;
  const std::uint32_t flags = slow_scan(text, options, expected_copy, expected);
  for (Isa isa : runnable_isas()) {
    // exact size on the heap, so that the address sanitizer sees a read past the end
    std::vector<std::uint8_t> input(text.begin(), text.end()), copy(text.size() + 128, 0xEE);
    std::vector<TextBlock> blocks(text.size() / 64 + 2);
    const std::uint32_t got = kernels(isa).text->scan(input.data(), input.size(), copy.data(), blocks.data(), &options);
    ASSERT_EQ(got, flags) << isa_name(isa) << " size " << text.size();
    ASSERT_EQ(std::memcmp(copy.data(), expected_copy.data(), text.size()), 0) << isa_name(isa);
    for (std::size_t i = text.size(); i < (text.size() + 63) / 64 * 64; ++i) ASSERT_EQ(copy[i], 0);
    for (std::size_t i = 0; i < (text.size() + 63) / 64; ++i) {
      const TextBlock &a = blocks[i], &b = expected[i];
      const std::size_t left = text.size() - 64 * i;
      const std::uint64_t valid = left >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
      ASSERT_EQ(a.space & valid, b.space);
      ASSERT_EQ(a.blank & valid, b.blank);
      ASSERT_EQ(a.alnum & valid, b.alnum);
      ASSERT_EQ(a.digit & valid, b.digit);
      ASSERT_EQ(a.punctuation & valid, b.punctuation);
      ASSERT_EQ(a.underscore & valid, b.underscore);
      ASSERT_EQ(a.trigger, b.trigger);
    }
  }
}

TEST(TextScan, EveryCodePointAtEveryPlaceAroundTheBlockEdge) {
  const TextScan options{1, {'[', '<'}};
  for (std::uint32_t cp = 0; cp < 0x11000; cp += cp < 0x3000 || (cp >= 0xABF0 && cp < 0xAC10) || (cp >= 0xD770 && cp < 0xD800) ? 1 : 61) {
    if (cp >= 0xD800 && cp < 0xE000) continue;
    std::string c;
    append_utf8(cp, c);
    for (std::size_t before : {0u, 61u, 62u, 63u}) compare_scans(std::string(before, 'A') + c + (cp % 2 ? "" : "z"), options);
  }
}

TEST(TextScan, RandomBytesAndBrokenSyllables) {
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    const std::size_t size = random() % 200;
    while (text.size() < size) {
      switch (random() % 5) {
        case 0: text += static_cast<char>(random() % 128); break;
        case 1: append_utf8(0xAC00 + random() % 11172, text); break;
        case 2: append_utf8(0xAC00 + random() % 11172, text); break;
        case 3: text += ' '; break;
        default: if (random() % 40 == 0) text += static_cast<char>(random() % 256);
      }
    }
    if (random() % 4 == 0) text.resize(random() % (text.size() + 1));  // may cut a syllable
    compare_scans(text, {static_cast<std::uint8_t>(round % 2), {0xFF, static_cast<std::uint8_t>(round % 3 ? 0xFF : '[')}});
  }
}

TEST(DecodeUtf8, ReplacesMaximalSubparts) {
  const std::map<std::string, std::vector<std::uint32_t>> cases = {
      {"\xC0\x80", {kReplacement, kReplacement}},
      {"\xED\xA0\x80", {kReplacement, kReplacement, kReplacement}},  // a surrogate
      {"\xE2\x82", {kReplacement}},
      {"\xF0\x9F\x98", {kReplacement}},
      {"\xF4\x90\x80\x80", {kReplacement, kReplacement, kReplacement, kReplacement}},
      {"a\xFFz", {'a', kReplacement, 'z'}},
      {"\xF0\x9F\x98\x80", {0x1F600}},
  };
  for (const auto& [text, expected] : cases) {
    std::vector<std::uint32_t> got;
    bool bad = false;
    for (const std::uint8_t *p = bytes(text), *end = p + text.size(); p < end;) got.push_back(decode_utf8(p, end, bad));
    EXPECT_EQ(got, expected);
  }
}

TEST(Trie, FindsWhatAMapFinds) {
  std::mt19937 random(3);
  for (int round = 0; round < 50; ++round) {
    std::map<std::string, std::int32_t> map;
    std::vector<std::pair<std::string, std::int32_t>> entries;
    for (std::size_t i = 0, n = random() % 400; i < n; ++i) {
      std::string key(1 + random() % 5, ' ');
      for (char& c : key) c = static_cast<char>(random() % (round % 2 ? 256 : 4));
      entries.emplace_back(key, static_cast<std::int32_t>(i));
      map[key] = static_cast<std::int32_t>(i);  // the last one counts
    }
    entries.emplace_back(std::string(70000, 'x'), 12345);  // deep: must not recurse
    const Trie trie(entries);
    EXPECT_EQ(trie.find(std::string(70000, 'x')), 12345);
    for (int i = 0; i < 3000; ++i) {
      std::string key(random() % 6, ' ');
      for (char& c : key) c = static_cast<char>(random() % (round % 2 ? 256 : 4));
      const auto found = map.find(key);
      ASSERT_EQ(trie.find(key), found == map.end() ? -1 : found->second);
    }
  }
  for (int byte = 0; byte < 256; ++byte) EXPECT_EQ(Trie().step(Trie::kRoot, static_cast<std::uint8_t>(byte)), -1);
}

TEST(WordMemo, ForgetsButNeverConfuses) {
  WordMemo memo;
  std::mt19937 random(5);
  std::size_t hits = 0;
  for (int i = 0; i < 300000; ++i) {
    std::string word = std::to_string(random() % 200000);
    if (random() % 4 == 0) word += std::string(random() % 50, 'x');
    if (word.size() > WordMemo::kLong) continue;
    const std::size_t n = word.size();
    word.resize(n + WordMemo::kReadAhead, static_cast<char>(random()));  // what follows a word must not matter
    const std::int32_t ids[2] = {static_cast<std::int32_t>(std::hash<std::string>()(word.substr(0, n))), static_cast<std::int32_t>(n)};
    if (n <= WordMemo::kShort) {
      const auto key = WordMemo::key_of(bytes(word), n);
      if (const auto* entry = memo.find(key, n)) {
        ASSERT_EQ(std::memcmp(entry->ids, ids, sizeof(ids)), 0);
        ASSERT_EQ(entry->count, 2);
        ++hits;
      } else {
        memo.store(key, n, ids, 2);
        ASSERT_NE(memo.find(key, n), nullptr);
      }
    } else {
      const auto hash = WordMemo::hash_of(bytes(word), n);
      if (const auto* entry = memo.find(hash, bytes(word), n)) {
        ASSERT_EQ(std::memcmp(entry->ids, ids, sizeof(ids)), 0);
        ++hits;
      } else {
        memo.store(hash, bytes(word), n, ids, 2);
        ASSERT_NE(memo.find(hash, bytes(word), n), nullptr);
      }
    }
  }
  EXPECT_GT(hits, 1000u);
}

TEST(WordMemo, ANulIsNotPadding) {
  WordMemo memo;
  std::string one("a", 1), two("a\0", 2);
  one.resize(80);
  two.resize(80);
  const std::int32_t id = 1;
  memo.store(WordMemo::key_of(bytes(one), 1), 1, &id, 1);
  EXPECT_EQ(memo.find(WordMemo::key_of(bytes(two), 2), 2), nullptr);
}

TEST(Unicode, HangulComposesAndDecomposesArithmetically) {
  const Unicode& unicode = Unicode::get();
  std::vector<std::uint32_t> out;
  for (std::uint32_t cp = 0xAC00; cp <= 0xD7A3; ++cp) {
    out.clear();
    unicode.decompose(cp, false, out);
    std::uint32_t composed = unicode.compose(out[0], out[1]);
    if (out.size() == 3) composed = unicode.compose(composed, out[2]);
    ASSERT_EQ(composed, cp);
  }
  EXPECT_EQ(unicode.compose('a', 0x301), 0xE1u);
  EXPECT_EQ(unicode.compose('a', 'b'), 0u);
}

TEST(Tokenizer, RefusesWhatItDoesNotHave) {
  TokenizerSpec spec;
  spec.model.type = "WordPiece";
  spec.model.vocab = {{"?", 0}, {"a", 1}};
  spec.model.unk_id = 0;
  const Tokenizer good(spec, active_isa());
  const TextRef text{"a a", 3, 0};
  EXPECT_EQ(good.encode({&text, 1}, {}).tokens(), 1);  // no pre-tokeniser: one word, unknown
  spec.normalizer = {{"nmt", "", "", 0}};
  EXPECT_THROW(Tokenizer(spec, active_isa()), Error);
  spec.normalizer.clear();
  spec.pre_tokenizer = {{"scripts", "", "", 0}};
  EXPECT_THROW(Tokenizer(spec, active_isa()), Error);
  spec.pre_tokenizer.clear();
  spec.model.type = "WordLevel";
  EXPECT_THROW(Tokenizer(spec, active_isa()), Error);
}

// The fast path against the exact one (which offsets ask for), over whole tokenisers, at every level and on two threads.
TEST(Tokenizer, FastAndExactPathsAgree) {
  std::vector<TokenizerSpec> specs(5);
  const auto vocabulary = [](TokenizerSpec& spec, const std::string& inside) {
    std::int32_t id = 0;
    spec.model.vocab = {{"[UNK]", id++}};
    for (const char* token : {"a", "b", "ab", "e", "ax", "m", "\xEA\xB0\x80", "\xED\x9E\xA3", "1", "12", "'", "s", "\xE2\x96\x81", "\xE2\x96\x81" "a", " "}) {
      spec.model.vocab.emplace_back(token, id++);
      if (!inside.empty()) spec.model.vocab.emplace_back(inside + token, id++);
    }
    spec.model.unk_id = 0;
    spec.added = {{"[UNK]", 0, false, false, false, false}};
  };
  for (std::size_t i = 0; i < specs.size(); ++i) {
    TokenizerSpec& spec = specs[i];
    spec.normalizer = {{"nfkc", "", "", 0}, {"lowercase", "", "", 0}};
    spec.model.type = i < 2 ? "WordPiece" : i < 4 ? "BPE" : "Unigram";
    spec.model.prefix = i < 2 ? "##" : "";
    vocabulary(spec, spec.model.prefix);
    if (i == 0) spec.pre_tokenizer = {{"bert", "", "", 0}};
    if (i == 1) spec.pre_tokenizer = {{"whitespace", "", "", 0}};
    if (i == 2) spec.pre_tokenizer = {{"whitespace_split", "", "", 0}};
    if (i == 3) spec.pre_tokenizer = {{"prefix_space", "", "", 0}, {"split_gpt2", "", "", 0}};
    if (i == 4) spec.pre_tokenizer = {{"metaspace", "\xE2\x96\x81", "", 5}};
    if (i == 2 || i == 3) spec.model.merges = {1, 2, 3};  // a b -> ab
    if (i == 3) spec.model.byte_level = true;
    for (std::size_t k = 0; i == 4 && k < spec.model.vocab.size(); ++k) spec.model.scores.push_back(-static_cast<double>(k % 7) - 1);
  }
  std::mt19937 random(11);
  std::vector<std::string> texts;
  for (int i = 0; i < 3000; ++i) {
    std::string text;
    for (std::size_t k = random() % 60; k; --k) {
      switch (random() % 9) {
        case 0: append_utf8(0x20 + random() % 0x60, text); break;
        case 1: append_utf8(0xAC00 + (random() % 2 ? 0 : 11171), text); break;
        case 2: text += "ab "; break;
        case 3: text += random() % 2 ? "'s" : "[UNK]"; break;
        case 4: append_utf8(random() % 8 ? 'A' : 0x300 + random() % 0x40, text); break;
        case 5: append_utf8(random() % 8 ? ' ' : 0xA0 + random() % 0x2000, text); break;
        case 6: append_utf8(random() % 4 ? '1' : 0xFF00 + random() % 0xE0, text); break;
        case 7: text += random() % 8 ? 'x' : static_cast<char>(random() % 256); break;
        default: text += 'm';
      }
    }
    texts.push_back(text);
  }
  std::vector<std::vector<char>> held;  // exact sizes on the heap
  for (const std::string& text : texts) held.emplace_back(text.begin(), text.end());
  std::vector<TextRef> refs;
  for (const auto& text : held) refs.push_back({text.data(), text.size(), 0});
  for (const TokenizerSpec& spec : specs)
    for (Isa isa : runnable_isas()) {
      const Tokenizer tokenizer(spec, isa);
      EncodeOptions fast, exact;
      fast.normalized = exact.normalized = true;
      fast.threads = 2;
      exact.offsets = true;
      const Encoded a = tokenizer.encode(refs, fast), b = tokenizer.encode(refs, exact);
      ASSERT_EQ(a.tokens(), b.tokens());
      ASSERT_EQ(a.replaced(), b.replaced());
      ASSERT_EQ(a.normalized_bytes(), b.normalized_bytes());
      std::vector<std::int32_t> ids(static_cast<std::size_t>(a.tokens())), others(ids.size());
      a.copy_flat(ids.data());
      b.copy_flat(others.data());
      ASSERT_EQ(ids, others);
      std::vector<std::uint8_t> text(static_cast<std::size_t>(a.normalized_bytes())), same(text.size());
      std::vector<std::int64_t> splits(refs.size() + 1), same_splits(splits.size());
      a.copy_normalized(text.data(), splits.data());
      b.copy_normalized(same.data(), same_splits.data());
      ASSERT_EQ(text, same);
      ASSERT_EQ(splits, same_splits);
    }
}

}  // namespace
}  // namespace aitems::text
