// libtriton_aitems.so: Triton's way into the native classifier. One batch of the server becomes one call; every request gets its own
// answer or its own error. No exception leaves this file.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "category/classifier_file.hpp"
#include "triton/api.hpp"
#include "triton/tensors.hpp"

namespace aitems::triton {
namespace {

using category::Answers;
using category::Classifier;

constexpr const char* kFile = "classifier.bin";
constexpr int kMaxTopK = 1000, kMaxThreads = 1024;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

TRITONSERVER_Error* error_of(const std::exception& e) {
  const auto* ours = dynamic_cast<const Error*>(&e);
  return TRITONSERVER_ErrorNew(ours && ours->kind() == ErrorKind::kInvalidInput ? TRITONSERVER_ERROR_INVALID_ARG : TRITONSERVER_ERROR_INTERNAL, e.what());
}

// An error of the server becomes an exception.
void check(TRITONSERVER_Error* error) {
  if (!error) return;
  const std::string message = TRITONSERVER_ErrorMessage(error);
  TRITONSERVER_ErrorDelete(error);
  throw std::runtime_error(message);
}

// Where there is nobody left to tell.
void ignore(TRITONSERVER_Error* error) {
  if (error) TRITONSERVER_ErrorDelete(error);
}

template <class F>
TRITONSERVER_Error* guarded(const F& body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception& e) {
    return error_of(e);
  } catch (...) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "unknown failure");
  }
}

uint64_t now() { return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count()); }

int top_k_of(const std::string& text, const std::string& given) {
  const int k = whole_number(text, kMaxTopK);
  if (k == 0) invalid("the parameter top_k must be a whole number from 1 to " + std::to_string(kMaxTopK) + ", got " + given.substr(0, 40));
  return k;
}

struct Model {
  std::unique_ptr<Classifier> classifier;
  int top_k, threads;

  explicit Model(TRITONBACKEND_Model* model) {
    TRITONSERVER_Message* message = nullptr;
    check(TRITONBACKEND_ModelConfig(model, 1, &message));
    const std::unique_ptr<TRITONSERVER_Message, void (*)(TRITONSERVER_Message*)> held(message, [](TRITONSERVER_Message* m) { ignore(TRITONSERVER_MessageDelete(m)); });
    const char* json = nullptr;
    std::size_t size = 0;
    check(TRITONSERVER_MessageSerializeToJson(message, &json, &size));
    const std::string_view config(json, size);
    const std::string mode = parameter(config, "mode"), given = parameter(config, "top_k");
    if (mode != "int8" && mode != "exact") invalid("the parameter mode must be int8 or exact, got '" + mode + "'");
    top_k = top_k_of(given, "'" + given + "'");
    threads = whole_number(parameter(config, "threads"), kMaxThreads);
    if (threads == 0) invalid("the parameter threads must be a whole number from 1 to " + std::to_string(kMaxThreads) + ", got '" + parameter(config, "threads") + "'");

    uint64_t version = 0;
    check(TRITONBACKEND_ModelVersion(model, &version));
    TRITONBACKEND_ArtifactType type{};
    const char* location = nullptr;
    check(TRITONBACKEND_ModelRepository(model, &type, &location));
    if (type != TRITONBACKEND_ARTIFACT_FILESYSTEM) invalid("the model must lie in a file system");
    const std::string path = std::string(location) + "/" + std::to_string(version) + "/" + kFile;
    classifier = category::open_classifier(path, mode == "int8" ? textcnn::Mode::kInt8 : textcnn::Mode::kExact, active_isa()).classifier;
  }
};

// One request of a batch: first read, then answered.
class Call {
 public:
  Call(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request) : instance_(instance), request_(request) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Reads the request; its texts go behind those of the batch.
  void read(int default_k, std::vector<text::TextRef>& titles, std::vector<std::optional<text::TextRef>>& malls) {
    top_k_ = top_k(default_k);
    std::vector<text::TextRef> own, own_malls;
    bool title = false, mall = false;
    uint32_t inputs = 0;
    check(TRITONBACKEND_RequestInputCount(request_, &inputs));
    for (uint32_t i = 0; i < inputs; ++i) {
      TRITONBACKEND_Input* input = nullptr;
      check(TRITONBACKEND_RequestInputByIndex(request_, i, &input));
      const char* name = nullptr;
      check(TRITONBACKEND_InputProperties(input, &name, nullptr, nullptr, nullptr, nullptr, nullptr));
      if (std::string_view(name) == "TITLE") {
        read_column(input, joined_[0], own);
        title = true;
      } else if (std::string_view(name) == "MALL_CATEGORY") {
        read_column(input, joined_[1], own_malls);
        mall = true;
      }
    }
    if (!title) invalid("TITLE must have shape (rows, 1), got none");
    if (mall && own_malls.size() != own.size()) invalid("MALL_CATEGORY has " + std::to_string(own_malls.size()) + " rows, TITLE " + std::to_string(own.size()));
    begin_ = titles.size();
    rows_ = own.size();
    titles.insert(titles.end(), own.begin(), own.end());
    if (mall)
      malls.insert(malls.end(), own_malls.begin(), own_malls.end());
    else
      malls.resize(titles.size());
    has_malls_ = mall;
  }

  bool failed() const { return failure_ != nullptr; }
  bool has_malls() const { return has_malls_; }
  int k() const { return top_k_; }
  std::size_t rows() const { return rows_; }
  void fail(TRITONSERVER_Error* error) {
    ignore(failure_);
    failure_ = error;
  }

  // Puts the call's rows of the answers into its response.
  void fill(const Classifier& classifier, const Answers& answers) {
    check(TRITONBACKEND_ResponseNew(&response_, request_));
    const std::size_t k = std::min(static_cast<std::size_t>(top_k_), answers.k);
    const int64_t wide[2] = {static_cast<int64_t>(rows_), static_cast<int64_t>(k)}, narrow[2] = {wide[0], 1};
    uint32_t outputs = 0;
    check(TRITONBACKEND_RequestOutputCount(request_, &outputs));
    std::string bytes;
    for (uint32_t i = 0; i < outputs; ++i) {
      const char* chars = nullptr;
      check(TRITONBACKEND_RequestOutputName(request_, i, &chars));
      const std::string_view name(chars);
      bytes.clear();
      if (name == "LEAF_ID") {
        for (std::size_t row = begin_; row < begin_ + rows_; ++row)
          for (std::size_t j = 0; j < k; ++j) append_text(classifier.leaf_id(answers.labels[row * answers.k + j]), bytes);
        write(chars, TRITONSERVER_TYPE_BYTES, wide, bytes);
      } else if (name == "PROBABILITY") {
        for (std::size_t row = begin_; row < begin_ + rows_; ++row)
          bytes.append(reinterpret_cast<const char*>(answers.probabilities.data() + row * answers.k), k * sizeof(float));
        write(chars, TRITONSERVER_TYPE_FP32, wide, bytes);
      } else if (name == "ABSTAINED") {
        bytes.append(reinterpret_cast<const char*>(answers.abstained.data() + begin_), rows_);
        write(chars, TRITONSERVER_TYPE_BOOL, narrow, bytes);
      } else if (name == "DETAIL") {
        for (std::size_t row = begin_; row < begin_ + rows_; ++row) append_text(classifier.detail(answers, row, k), bytes);
        write(chars, TRITONSERVER_TYPE_BYTES, narrow, bytes);
      }
    }
  }

  // Sends the answer or the error, and gives the request back. Nothing is to be done with the call afterwards.
  void send(uint64_t start, uint64_t compute_start, uint64_t compute_end) {
    if (!response_) ignore(TRITONBACKEND_ResponseNew(&response_, request_));
    const bool success = !failed();
    if (response_) ignore(TRITONBACKEND_ResponseSend(response_, kTritonResponseFinal, failure_));
    ignore(failure_);
    ignore(TRITONBACKEND_ModelInstanceReportStatistics(instance_, request_, success, start, compute_start, compute_end, now()));
    ignore(TRITONBACKEND_RequestRelease(request_, kTritonRequestReleaseAll));
  }

 private:
  int top_k(int default_k) const {
    uint32_t count = 0;
    check(TRITONBACKEND_RequestParameterCount(request_, &count));
    for (uint32_t i = 0; i < count; ++i) {
      const char* key = nullptr;
      TRITONSERVER_ParameterType type{};
      const void* value = nullptr;
      check(TRITONBACKEND_RequestParameter(request_, i, &key, &type, &value));
      if (std::string_view(key) != "top_k") continue;
      if (type == TRITONSERVER_PARAMETER_STRING) {
        const std::string text(static_cast<const char*>(value));
        return top_k_of(text, "'" + text + "'");
      }
      if (type == TRITONSERVER_PARAMETER_INT) {
        const std::string text = std::to_string(*static_cast<const int64_t*>(value));
        return top_k_of(text, text);
      }
      return top_k_of("", "a value of another type");
    }
    return default_k;
  }

  // A column of texts. Where the server has it in several pieces they are joined in `joined`.
  static void read_column(TRITONBACKEND_Input* input, std::string& joined, std::vector<text::TextRef>& out) {
    const char* name = nullptr;
    TRITONSERVER_DataType type{};
    const int64_t* shape = nullptr;
    uint32_t dims = 0, buffers = 0;
    check(TRITONBACKEND_InputProperties(input, &name, &type, &shape, &dims, nullptr, &buffers));
    if (type != TRITONSERVER_TYPE_BYTES || dims != 2 || shape[0] < 0 || shape[1] != 1) {
      std::string given;
      for (uint32_t i = 0; i < dims; ++i) given += (i ? ", " : "") + std::to_string(shape[i]);
      invalid(std::string(name) + " must have shape (rows, 1) and hold BYTES, got (" + given + ")");
    }
    const void* piece = nullptr;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < buffers; ++i) {
      TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
      int64_t memory_id = 0;
      check(TRITONBACKEND_InputBuffer(input, i, &piece, &bytes, &memory, &memory_id));
      if (memory == TRITONSERVER_MEMORY_GPU) invalid(std::string(name) + " must lie in the memory of the host");
      if (buffers > 1) joined.append(static_cast<const char*>(piece), bytes);
    }
    if (buffers == 1)
      read_texts(name, static_cast<const char*>(piece), bytes, shape[0], out);
    else
      read_texts(name, joined.data(), joined.size(), shape[0], out);
  }

  void write(const char* name, TRITONSERVER_DataType type, const int64_t* shape, const std::string& bytes) {
    TRITONBACKEND_Output* output = nullptr;
    check(TRITONBACKEND_ResponseOutput(response_, &output, name, type, shape, 2));
    void* buffer = nullptr;
    TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
    int64_t memory_id = 0;
    check(TRITONBACKEND_OutputBuffer(output, &buffer, bytes.size(), &memory, &memory_id));
    if (memory == TRITONSERVER_MEMORY_GPU) invalid(std::string(name) + " can be written to the memory of the host only");
    if (!bytes.empty()) std::memcpy(buffer, bytes.data(), bytes.size());
  }

  TRITONBACKEND_ModelInstance* instance_;
  TRITONBACKEND_Request* request_;
  TRITONBACKEND_Response* response_ = nullptr;
  TRITONSERVER_Error* failure_ = nullptr;
  std::string joined_[2];
  std::size_t begin_ = 0, rows_ = 0;
  int top_k_ = 0;
  bool has_malls_ = false;
};

// Answers a batch; every request is given back.
void execute(const Model& model, TRITONBACKEND_ModelInstance* instance, std::deque<Call>& calls) {
  const uint64_t start = now();
  std::vector<text::TextRef> titles;
  std::vector<std::optional<text::TextRef>> malls;
  for (Call& call : calls)
    if (TRITONSERVER_Error* error = guarded([&] { call.read(model.top_k, titles, malls); })) call.fail(error);

  const uint64_t compute_start = now();
  Answers answers;
  TRITONSERVER_Error* failure = guarded([&] {
    int k = 1;
    bool any_mall = false;
    for (const Call& call : calls) {
      if (call.failed()) continue;
      k = std::max(k, call.k());
      any_mall |= call.has_malls();
    }
    if (!any_mall) malls.clear();
    answers = model.classifier->classify(titles, malls, k, model.threads);
  });
  const uint64_t compute_end = now();
  for (Call& call : calls) {
    if (!call.failed() && failure)
      call.fail(TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, TRITONSERVER_ErrorMessage(failure)));
    else if (!call.failed())
      if (TRITONSERVER_Error* error = guarded([&] { call.fill(*model.classifier, answers); })) call.fail(error);
    call.send(start, compute_start, compute_end);
  }
  ignore(failure);
  if (!titles.empty()) ignore(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, titles.size(), start, compute_start, compute_end, now()));
}

Model* state_of(TRITONBACKEND_Model* model) {
  void* state = nullptr;
  check(TRITONBACKEND_ModelState(model, &state));
  return static_cast<Model*>(state);
}

}  // namespace
}  // namespace aitems::triton

using namespace aitems::triton;

extern "C" {

TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend*) {
  return guarded([] {
    uint32_t major = 0, minor = 0;
    check(TRITONBACKEND_ApiVersion(&major, &minor));
    if (major != kTritonApiMajor)
      throw std::runtime_error("this backend is for version " + std::to_string(kTritonApiMajor) + " of Triton's interface for backends, the server has " +
                               std::to_string(major) + "." + std::to_string(minor));
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return guarded([&] {
    auto state = std::make_unique<Model>(model);
    check(TRITONBACKEND_ModelSetState(model, state.get()));
    state.release();
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return guarded([&] { delete state_of(model); });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, uint32_t count) {
  // An error before the requests are taken over leaves them with the server, which answers them with it.
  return guarded([&] {
    TRITONBACKEND_Model* model = nullptr;
    check(TRITONBACKEND_ModelInstanceModel(instance, &model));
    const Model* state = state_of(model);
    std::deque<Call> calls;
    for (uint32_t i = 0; i < count; ++i) calls.emplace_back(instance, requests[i]);
    execute(*state, instance, calls);
  });
}

}  // extern "C"
