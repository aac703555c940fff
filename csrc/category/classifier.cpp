#include "category/classifier.hpp"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

#include "base/error.hpp"
#include "textcnn/char_ngrams.hpp"

namespace aitems::category {
namespace {

constexpr std::size_t kHedgeRows = 256;  // whose logits of all labels are held at a time

[[noreturn]] void mismatch(const std::string& message) { throw Error(ErrorKind::kModelMismatch, message); }

// Token ids of a batch as the scorer takes them.
struct Tokens {
  std::vector<int32_t> ids, lengths;
  int64_t width = 0;
  text::Encoded encoded;

  Tokens(const text::Tokenizer& tokenizer, std::span<const text::TextRef> texts, int64_t max_length, bool normalized, int threads) {
    text::EncodeOptions options;
    options.max_length = max_length;
    options.normalized = normalized;
    options.threads = threads;
    encoded = tokenizer.encode(texts, options);
    width = encoded.longest();
    ids.resize(texts.size() * static_cast<std::size_t>(width) + 1);  // some address, even where no text has a token
    lengths.resize(texts.size());
    encoded.copy_padded(ids.data(), width, 0, threads);
    encoded.copy_lengths(lengths.data(), width);
  }
};

std::string decimal(float value, int decimals) {
  char out[64];
  return std::string(out, static_cast<std::size_t>(std::snprintf(out, sizeof(out), "%.*f", decimals, static_cast<double>(value))));
}

}  // namespace

std::string json_string(const std::string& text) {
  static const char* const kHex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20)
      out.append("\\u00").append(1, kHex[c >> 4]).append(1, kHex[c & 15]);
    else
      out += c;
  }
  return out += '"';
}

Classifier::Classifier(ClassifierSpec spec, textcnn::Mode mode, Isa isa)
    : spec_(std::move(spec)), tokenizer_(std::exchange(spec_.tokenizer, {}), isa), scorer_(textcnn::Model(std::exchange(spec_.tensors, {}), mode, isa, 1)),
      hedge_(std::exchange(spec_.tree, {})) {
  const textcnn::Model& model = scorer_.model();
  const auto classes = static_cast<std::size_t>(model.classes());
  if (labels() != classes || spec_.paths.size() != classes || spec_.tops.size() != classes || hedge_.labels() != classes)
    mismatch("the classifier has " + std::to_string(labels()) + " labels, the model " + std::to_string(classes) + " outputs");
  if (model.bag.buckets != spec_.gram_buckets)
    mismatch("the classifier has " + std::to_string(spec_.gram_buckets) + " n-gram buckets, the model " + std::to_string(model.bag.buckets));
  if (hedge_.nodes() != spec_.node_ids.size() || hedge_.nodes() != spec_.node_paths.size())
    mismatch("the tree has " + std::to_string(hedge_.nodes()) + " nodes, and there are " + std::to_string(spec_.node_ids.size()) + " ids");
  const text::TextRef nothing;
  empty_length_ = Tokens(tokenizer_, {&nothing, 1}, spec_.max_title_length, false, 1).lengths[0];
  for (const std::string& path : spec_.paths) json_paths_.push_back(json_string(path));
  json_digest_ = json_string(spec_.bundle_digest);
}

Answers Classifier::classify(std::span<const text::TextRef> titles, std::span<const std::optional<text::TextRef>> malls, int k, int threads) const {
  if (!malls.empty() && malls.size() != titles.size())
    throw Error(ErrorKind::kInvalidInput, "there must be one mall category a title (" + std::to_string(titles.size()) + "), got " + std::to_string(malls.size()));
  const std::size_t rows = titles.size();
  Answers out;
  out.rows = rows;
  out.k = std::min(static_cast<std::size_t>(std::max(k, 1)), labels());
  if (rows == 0) return out;
  out.labels.resize(rows * out.k);
  out.probabilities.resize(rows * out.k);
  out.abstained.resize(rows);
  out.causes.resize(rows);
  out.sure.resize(rows);

  textcnn::Inputs inputs;
  const Tokens title(tokenizer_, titles, spec_.max_title_length, spec_.gram_buckets > 0, threads);
  inputs.count = static_cast<int64_t>(rows);
  inputs.title_ids = title.ids.data();
  inputs.title_width = title.width;
  inputs.title_lengths = title.lengths.data();

  textcnn::CharNgrams grams;
  if (spec_.gram_buckets > 0) {
    std::vector<uint8_t> text(static_cast<std::size_t>(title.encoded.normalized_bytes()));
    std::vector<int64_t> offsets(rows + 1);
    title.encoded.copy_normalized(text.data(), offsets.data());
    grams = textcnn::char_ngrams(text.data(), text.size(), offsets.data(), rows, spec_.gram_min, spec_.gram_max, spec_.gram_buckets, threads);
    inputs.gram_ids = grams.ids.data();
    inputs.gram_count = static_cast<int64_t>(grams.ids.size());
    inputs.gram_splits = grams.splits.data();
  }

  std::optional<Tokens> mall;
  if (!malls.empty()) {
    std::vector<text::TextRef> texts(rows);
    for (std::size_t row = 0; row < rows; ++row) texts[row] = malls[row].value_or(text::TextRef{});
    mall.emplace(tokenizer_, texts, spec_.max_mall_length, false, threads);
    for (std::size_t row = 0; row < rows; ++row)
      if (!malls[row]) mall->lengths[row] = 0;
    inputs.mall_ids = mall->ids.data();
    inputs.mall_width = mall->width;
    inputs.mall_lengths = mall->lengths.data();
  }

  scorer_.top(inputs, static_cast<int>(out.k), threads, out.labels.data(), out.probabilities.data());
  for (std::size_t row = 0; row < rows; ++row) {
    const bool empty = title.lengths[row] <= empty_length_, unsure = out.probabilities[row * out.k] < hedge_.threshold(out.labels[row * out.k]);
    out.causes[row] = empty ? Answers::kEmptyTitle : unsure ? Answers::kLowConfidence : Answers::kNone;
    out.abstained[row] = empty || unsure;
  }
  if (!hedge_.flat()) hedge(inputs, threads, out);
  return out;
}

void Classifier::hedge(const textcnn::Inputs& in, int threads, Answers& out) const {
  std::vector<std::size_t> rows;
  for (std::size_t row = 0; row < out.rows; ++row)
    if (out.causes[row] == Answers::kLowConfidence) rows.push_back(row);
  std::vector<int32_t> titles, malls, grams, title_lengths, mall_lengths, best;
  std::vector<int64_t> splits;
  AlignedBuffer<float> logits(std::min(rows.size(), kHedgeRows) * labels());
  std::vector<Hedge::Sure> sure;
  for (std::size_t from = 0; from < rows.size(); from += kHedgeRows) {
    const std::span<const std::size_t> some(rows.data() + from, std::min(kHedgeRows, rows.size() - from));
    titles.clear(), malls.clear(), grams.clear(), title_lengths.clear(), mall_lengths.clear(), best.clear();
    splits.assign(1, 0);
    for (const std::size_t row : some) {
      const auto at = static_cast<int64_t>(row);
      titles.insert(titles.end(), in.title_ids + at * in.title_width, in.title_ids + (at + 1) * in.title_width);
      title_lengths.push_back(in.title_lengths[row]);
      if (in.gram_splits) grams.insert(grams.end(), in.gram_ids + in.gram_splits[row], in.gram_ids + in.gram_splits[row + 1]);
      splits.push_back(static_cast<int64_t>(grams.size()));
      if (in.mall_ids) {
        malls.insert(malls.end(), in.mall_ids + at * in.mall_width, in.mall_ids + (at + 1) * in.mall_width);
        mall_lengths.push_back(in.mall_lengths[row]);
      }
      best.push_back(out.labels[row * out.k]);
    }
    textcnn::Inputs own = in;
    own.count = static_cast<int64_t>(some.size());
    own.title_ids = titles.data();
    own.title_lengths = title_lengths.data();
    own.gram_ids = grams.data();
    own.gram_count = static_cast<int64_t>(grams.size());
    own.gram_splits = in.gram_splits ? splits.data() : nullptr;
    own.mall_ids = in.mall_ids ? malls.data() : nullptr;
    own.mall_lengths = in.mall_ids ? mall_lengths.data() : nullptr;
    scorer_.logits(own, threads, logits.data());
    sure.resize(some.size());
    hedge_.above(logits.data(), best.data(), some.size(), threads, sure.data());
    for (std::size_t i = 0; i < some.size(); ++i) out.sure[some[i]] = sure[i];
  }
}

std::string Classifier::cause(const Answers& answers, std::size_t row) const {
  const int32_t label = answers.labels[row * answers.k];
  const float confidence = answers.probabilities[row * answers.k], threshold = hedge_.threshold(label);
  // as many decimals as it takes to see the difference
  const double difference = std::fabs(static_cast<double>(threshold) - static_cast<double>(confidence));
  const int decimals = difference >= 0.01 ? 2 : difference >= 0.0001 ? 4 : 8;
  std::string out = "low confidence: best " + decimal(confidence, decimals) + " < threshold " + decimal(threshold, decimals) + " for '" +
                    spec_.tops[static_cast<std::size_t>(label)] + "'";
  const Hedge::Sure& sure = answers.sure[row];
  if (sure.node >= 0) out += "; sure of '" + spec_.node_paths[static_cast<std::size_t>(sure.node)] + "' (" + decimal(sure.probability, 2) + ")";
  return out;
}

std::string Classifier::detail(const Answers& answers, std::size_t row, std::size_t k) const {
  std::string out = "{\"paths\":[";
  for (std::size_t j = 0; j < k; ++j) {
    if (j) out += ',';
    out += json_paths_[static_cast<std::size_t>(answers.labels[row * answers.k + j])];
  }
  out += "],\"cause\":";
  switch (answers.causes[row]) {
    case Answers::kNone: out += "null"; break;
    case Answers::kEmptyTitle: out += "\"empty title\""; break;
    case Answers::kLowConfidence: out += json_string(cause(answers, row)); break;
  }
  const Hedge::Sure& sure = answers.sure[row];
  out += ",\"parent_id\":";
  out += sure.node >= 0 ? json_string(spec_.node_ids[static_cast<std::size_t>(sure.node)]) : "null";
  out += ",\"parent_probability\":";
  if (sure.node >= 0) {
    char number[64];
    out.append(number, std::to_chars(number, number + sizeof(number), static_cast<double>(sure.probability)).ptr);
  } else {
    out += "null";
  }
  return out.append(",\"bundle\":").append(json_digest_).append("}");
}

}  // namespace aitems::category
