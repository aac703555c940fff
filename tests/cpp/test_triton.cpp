// The backend for Triton against a server made of maps: bytes that lie, errors of one request beside answers of others, recorded
// answers that do not come back. The functions that a server brings are defined here.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "category/classifier_file.hpp"
#include "triton/api.hpp"
#include "triton/tensors.hpp"

struct TRITONSERVER_Error {
  TRITONSERVER_Error_Code code;
  std::string message;
};
struct TRITONSERVER_Message {
  std::string json;
};
struct TRITONBACKEND_Backend {};
struct TRITONBACKEND_Model {
  std::string repository, config;
  uint64_t version = 1;
  void* state = nullptr;
};
struct TRITONBACKEND_ModelInstance {
  TRITONBACKEND_Model* model;
  uint64_t executed = 0, failed = 0, succeeded = 0;
};
struct TRITONBACKEND_Input {
  std::string name;
  TRITONSERVER_DataType type;
  std::vector<int64_t> shape;
  std::vector<std::string> pieces;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
};
struct TRITONBACKEND_Output {
  TRITONSERVER_DataType type;
  std::vector<int64_t> shape;
  std::string bytes;
};
struct TRITONBACKEND_Response {
  TRITONBACKEND_Request* request;
  std::map<std::string, TRITONBACKEND_Output> outputs;
};
struct Parameter {
  std::string key;
  TRITONSERVER_ParameterType type;
  std::string text;
  int64_t number = 0;
};
struct TRITONBACKEND_Request {
  std::vector<TRITONBACKEND_Input> inputs;
  std::vector<std::string> outputs{"LEAF_ID", "PROBABILITY", "ABSTAINED", "DETAIL"};
  std::vector<Parameter> parameters;
  // what came of it
  std::map<std::string, TRITONBACKEND_Output> answer;
  std::string error;
  int sent = 0, released = 0;
  bool refuse_output = false;
};

namespace {
int living_errors = 0;
}

extern "C" {
TRITONSERVER_Error* TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code code, const char* message) {
  ++living_errors;
  return new TRITONSERVER_Error{code, message};
}
const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error* error) { return error->message.c_str(); }
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error* error) {
  --living_errors;
  delete error;
}
TRITONSERVER_Error* TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message* message, const char** base, std::size_t* size) {
  *base = message->json.data();
  *size = message->json.size();
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MessageDelete(TRITONSERVER_Message* message) {
  delete message;
  return nullptr;
}
static uint32_t server_major = 1;
TRITONSERVER_Error* TRITONBACKEND_ApiVersion(uint32_t* major, uint32_t* minor) {
  *major = server_major;
  *minor = 19;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelVersion(TRITONBACKEND_Model* model, uint64_t* version) {
  *version = model->version;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelRepository(TRITONBACKEND_Model* model, TRITONBACKEND_ArtifactType* type, const char** location) {
  *type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  *location = model->repository.c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelConfig(TRITONBACKEND_Model* model, uint32_t, TRITONSERVER_Message** config) {
  *config = new TRITONSERVER_Message{model->config};
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelState(TRITONBACKEND_Model* model, void** state) {
  *state = model->state;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelSetState(TRITONBACKEND_Model* model, void* state) {
  model->state = state;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Model** model) {
  *model = instance->model;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportStatistics(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request, bool success, uint64_t start,
                                                                uint64_t compute_start, uint64_t compute_end, uint64_t end) {
  EXPECT_EQ(request->released, 0);
  EXPECT_TRUE(0 < start && start <= compute_start && compute_start <= compute_end && compute_end <= end);
  ++(success ? instance->succeeded : instance->failed);
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportBatchStatistics(TRITONBACKEND_ModelInstance* instance, uint64_t size, uint64_t, uint64_t, uint64_t, uint64_t) {
  instance->executed += size;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestInputCount(TRITONBACKEND_Request* request, uint32_t* count) {
  *count = static_cast<uint32_t>(request->inputs.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestInputByIndex(TRITONBACKEND_Request* request, uint32_t index, TRITONBACKEND_Input** input) {
  *input = &request->inputs.at(index);
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request* request, uint32_t* count) {
  *count = static_cast<uint32_t>(request->outputs.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request* request, uint32_t index, const char** name) {
  *name = request->outputs.at(index).c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestParameterCount(TRITONBACKEND_Request* request, uint32_t* count) {
  *count = static_cast<uint32_t>(request->parameters.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestParameter(TRITONBACKEND_Request* request, uint32_t index, const char** key, TRITONSERVER_ParameterType* type,
                                                   const void** value) {
  const Parameter& p = request->parameters.at(index);
  *key = p.key.c_str();
  *type = p.type;
  *value = p.type == TRITONSERVER_PARAMETER_STRING ? static_cast<const void*>(p.text.c_str()) : &p.number;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestRelease(TRITONBACKEND_Request* request, uint32_t) {
  ++request->released;
  request->inputs.clear();  // nothing may be read any more
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_InputProperties(TRITONBACKEND_Input* input, const char** name, TRITONSERVER_DataType* type, const int64_t** shape, uint32_t* dims,
                                                  uint64_t* bytes, uint32_t* buffers) {
  if (name) *name = input->name.c_str();
  if (type) *type = input->type;
  if (shape) *shape = input->shape.data();
  if (dims) *dims = static_cast<uint32_t>(input->shape.size());
  if (bytes) *bytes = 0;
  if (buffers) *buffers = static_cast<uint32_t>(input->pieces.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_InputBuffer(TRITONBACKEND_Input* input, uint32_t index, const void** buffer, uint64_t* bytes, TRITONSERVER_MemoryType* memory,
                                              int64_t*) {
  *buffer = input->pieces.at(index).data();
  *bytes = input->pieces[index].size();
  *memory = input->memory;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseNew(TRITONBACKEND_Response** response, TRITONBACKEND_Request* request) {
  *response = new TRITONBACKEND_Response{request, {}};
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response* response, TRITONBACKEND_Output** output, const char* name, TRITONSERVER_DataType type,
                                                 const int64_t* shape, uint32_t dims) {
  if (response->request->refuse_output) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "no room for outputs");
  *output = &(response->outputs[name] = {type, {shape, shape + dims}, {}});
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output* output, void** buffer, uint64_t bytes, TRITONSERVER_MemoryType* memory, int64_t*) {
  output->bytes.resize(bytes);
  *buffer = output->bytes.data();
  *memory = TRITONSERVER_MEMORY_CPU;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseSend(TRITONBACKEND_Response* response, uint32_t, TRITONSERVER_Error* error) {
  const std::unique_ptr<TRITONBACKEND_Response> held(response);
  ++held->request->sent;
  if (error)
    held->request->error = error->message;
  else
    held->request->answer = held->outputs;
  return nullptr;
}
}  // extern "C"

namespace aitems::triton {
namespace {

using text::TextRef;

std::string packed(const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) append_text(text, out);
  return out;
}

std::vector<std::string> unpacked(const std::string& bytes, int64_t count) {
  std::vector<TextRef> refs;
  read_texts("x", bytes.data(), bytes.size(), count, refs);
  std::vector<std::string> out;
  for (const TextRef& r : refs) out.emplace_back(static_cast<const char*>(r.data), r.size);
  return out;
}

TEST(Texts, ComeBack) {
  const std::vector<std::string> texts{"", "a", std::string("nul\0", 4), std::string(70'000, 'x')};
  EXPECT_EQ(unpacked(packed(texts), 4), texts);
  EXPECT_TRUE(unpacked("", 0).empty());
}

TEST(Texts, LengthsThatLie) {
  const std::string good = packed({"abc", "de"});
  for (std::size_t cut = 0; cut < good.size(); ++cut) EXPECT_THROW(unpacked(good.substr(0, cut), 2), Error) << cut;
  EXPECT_THROW(unpacked(good, 1), Error);
  EXPECT_THROW(unpacked(good, 3), Error);
  EXPECT_THROW(unpacked(good, INT64_MAX), Error);
  for (const uint32_t length : {4u, 0x7FFFFFFFu, 0xFFFFFFFFu, 0xFFFFFFFCu}) {
    std::string bad = good;
    std::memcpy(bad.data(), &length, 4);
    EXPECT_THROW(unpacked(bad, 2), Error) << length;
  }
  std::vector<TextRef> out(3);
  EXPECT_THROW(read_texts("TITLE", good.data(), good.size() - 1, 2, out), Error);
  EXPECT_EQ(out.size(), 3u);
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    // exactly as large as said, so that a sanitizer sees a byte too many
    const std::size_t size = random() % 24;
    const std::unique_ptr<char[]> bytes(new char[size]);
    for (std::size_t b = 0; b < size; ++b) bytes[b] = static_cast<char>(random() % 3 ? 0 : random() % 9);
    std::vector<TextRef> found;
    try {
      read_texts("x", bytes.get(), size, random() % 5, found);
      std::string again;
      for (const TextRef& r : found) append_text({static_cast<const char*>(r.data), r.size}, again);
      EXPECT_EQ(again, std::string(bytes.get(), size));
    } catch (const Error&) {
    }
  }
}

TEST(Parameters, OfAConfiguration) {
  const std::string json =
      R"({"name":"a \"{","input":[{"name":"x","dims":[1,2]},{"name":"}"}],"empty":{},"none":null,)"
      R"("parameters": {"other":{"string_value":"7,}"}, "top_k" : { "string_value" : "5" },"bad":{}},"z":1})";
  EXPECT_EQ(parameter(json, "top_k"), "5");
  EXPECT_EQ(parameter(json, "other"), "7,}");
  EXPECT_EQ(parameter(json, "bad"), "");
  EXPECT_EQ(parameter(json, "x"), "");
  for (std::size_t cut = 0; cut < json.size(); ++cut) parameter(std::string_view(json).substr(0, cut), "top_k");
  EXPECT_EQ(parameter("", "a"), "");
  EXPECT_EQ(parameter("[]", "a"), "");
  EXPECT_EQ(whole_number("17", 20), 17);
  for (const char* text : {"", "0", "21", "-1", "1x", " 1", "1.5", "99999999999999999999"}) EXPECT_EQ(whole_number(text, 20), 0) << text;
}

// A classifier of two leaves below one node: letters are tokens, weights are random.
category::ClassifierSpec small_spec(std::vector<std::vector<float>>& weights) {
  category::ClassifierSpec spec;
  spec.tokenizer.pre_tokenizer = {{"whitespace_split", "", "", 0}};
  text::ModelSpec& model = spec.tokenizer.model;
  model.type = "WordPiece";
  model.unk_id = 0;
  model.prefix = "##";
  model.vocab = {{"[UNK]", 0}, {"a", 1}, {"b", 2}, {"##a", 3}, {"##b", 4}};
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  const auto tensor = [&](const std::string& name, std::vector<int64_t> shape) {
    std::size_t size = 1;
    for (const int64_t n : shape) size *= static_cast<std::size_t>(n);
    weights.emplace_back(size);
    for (float& w : weights.back()) w = normal(random);
    spec.tensors[name] = {weights.back().data(), std::move(shape)};
  };
  weights.reserve(8);
  tensor("embedding.weight", {5, 4});
  tensor("title.conv1.weight", {6, 4, 1});
  tensor("title.conv1.bias", {6});
  tensor("mall.conv1.weight", {3, 4, 1});
  tensor("mall.conv1.bias", {3});
  tensor("head.weight", {3, 9});
  tensor("head.bias", {3});
  spec.max_title_length = spec.max_mall_length = 8;
  spec.leaf_ids = {"one", "two", "three"};
  spec.paths = {"top > \"one\"", "top > two", "three"};
  spec.tops = {"top", "top", "three"};
  spec.node_ids = {"top-id"};
  spec.node_paths = {"top"};
  spec.tree = {{0, 1, 2}, {0}, {2}, {0, 0, -1}, {0.75f, 0.75f, 0.75f}};
  spec.bundle_digest = "digest";
  return spec;
}

class TritonBackend : public testing::Test {
 protected:
  TritonBackend() {
    folder_ = std::filesystem::temp_directory_path() / ("aitems-triton-" + std::to_string(::testing::UnitTest::GetInstance()->random_seed()) + "-" +
                                                        ::testing::UnitTest::GetInstance()->current_test_info()->name() + std::to_string(getpid()));
    std::filesystem::create_directories(folder_ / "1");
    model_.repository = folder_.string();
    model_.config = R"({"parameters":{"top_k":{"string_value":"2"},"threads":{"string_value":"1"},"mode":{"string_value":"exact"}}})";
    write({});
  }
  ~TritonBackend() override {
    std::filesystem::remove_all(folder_);
    EXPECT_EQ(living_errors, 0);
  }

  void write(const std::vector<category::Recorded>& recorded) {
    std::vector<std::vector<float>> weights;
    category::write_classifier((folder_ / "1" / "classifier.bin").string(), small_spec(weights), recorded);
  }
  std::string load() {
    TRITONSERVER_Error* error = TRITONBACKEND_ModelInitialize(&model_);
    const std::string message = error ? error->message : "";
    if (error) TRITONSERVER_ErrorDelete(error);
    return message;
  }
  void unload() { EXPECT_EQ(TRITONBACKEND_ModelFinalize(&model_), nullptr); }
  void execute(std::vector<TRITONBACKEND_Request>& requests) {
    std::vector<TRITONBACKEND_Request*> all;
    for (auto& request : requests) all.push_back(&request);
    EXPECT_EQ(TRITONBACKEND_ModelInstanceExecute(&instance_, all.data(), static_cast<uint32_t>(all.size())), nullptr);
    for (const auto& request : requests) EXPECT_TRUE(request.sent == 1 && request.released == 1);
  }
  static TRITONBACKEND_Request request(const std::vector<std::string>& titles, const std::vector<std::string>& malls = {}) {
    TRITONBACKEND_Request made;
    made.inputs.push_back({"TITLE", TRITONSERVER_TYPE_BYTES, {static_cast<int64_t>(titles.size()), 1}, {packed(titles)}});
    if (!malls.empty()) made.inputs.push_back({"MALL_CATEGORY", TRITONSERVER_TYPE_BYTES, {static_cast<int64_t>(malls.size()), 1}, {packed(malls)}});
    return made;
  }

  std::filesystem::path folder_;
  TRITONBACKEND_Model model_;
  TRITONBACKEND_ModelInstance instance_{&model_};
};

TEST_F(TritonBackend, AnswersOfABatchAreThoseOfEachAlone) {
  ASSERT_EQ(load(), "");
  std::mt19937 random(4);
  for (int round = 0; round < 50; ++round) {
    std::vector<TRITONBACKEND_Request> batch, alone;
    for (std::size_t i = 0; i < 1 + random() % 6; ++i) {
      std::vector<std::string> titles, malls;
      for (std::size_t row = 0; row < 1 + random() % 3; ++row) {
        std::string title, mall;
        for (std::size_t c = 0; c < random() % 7; ++c) title += "ab \xFF"[random() % 4];
        for (std::size_t c = 0; c < random() % 3; ++c) mall += "ab"[random() % 2];
        titles.push_back(title);
        malls.push_back(mall);
      }
      TRITONBACKEND_Request made = request(titles, random() % 2 ? malls : std::vector<std::string>{});
      if (random() % 2) made.parameters.push_back({"top_k", TRITONSERVER_PARAMETER_INT, "", static_cast<int64_t>(1 + random() % 5)});
      if (random() % 3 == 0)
        for (auto& input : made.inputs) {  // in pieces
          const std::string whole = input.pieces[0];
          const std::size_t cut = random() % (whole.size() + 1);
          input.pieces = {whole.substr(0, cut), whole.substr(cut)};
        }
      batch.push_back(made);
      alone.push_back(made);
    }
    execute(batch);
    for (std::size_t i = 0; i < alone.size(); ++i) {
      std::vector<TRITONBACKEND_Request> one{alone[i]};
      execute(one);
      ASSERT_EQ(batch[i].error, "");
      for (const auto& [name, output] : one[0].answer) {
        const auto& other = batch[i].answer.at(name);
        EXPECT_EQ(output.shape, other.shape);
        EXPECT_EQ(output.bytes, other.bytes) << name;
      }
      EXPECT_EQ(one[0].answer.size(), 4u);
    }
  }
  EXPECT_EQ(instance_.failed, 0u);
  unload();
}

TEST_F(TritonBackend, InstancesAtOnce) {
  ASSERT_EQ(load(), "");
  std::vector<TRITONBACKEND_Request> first{request({"ab a", "b"})};
  execute(first);
  std::vector<std::thread> instances;
  for (int i = 0; i < 4; ++i)
    instances.emplace_back([&] {
      TRITONBACKEND_ModelInstance own{&model_};
      for (int round = 0; round < 100; ++round) {
        TRITONBACKEND_Request asked = request({"ab a", "b"});
        TRITONBACKEND_Request* all[] = {&asked};
        EXPECT_EQ(TRITONBACKEND_ModelInstanceExecute(&own, all, 1), nullptr);
        EXPECT_EQ(asked.answer.at("DETAIL").bytes, first[0].answer.at("DETAIL").bytes);
        EXPECT_EQ(asked.answer.at("PROBABILITY").bytes, first[0].answer.at("PROBABILITY").bytes);
      }
    });
  for (std::thread& instance : instances) instance.join();
  unload();
}

TEST_F(TritonBackend, TensorsOfAnAnswer) {
  ASSERT_EQ(load(), "");
  std::vector<TRITONBACKEND_Request> requests{request({"ab", "", "bb ab"}), request({"a"})};
  requests[1].outputs = {"PROBABILITY"};
  execute(requests);
  auto& answer = requests[0].answer;
  EXPECT_EQ(answer["LEAF_ID"].shape, (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(answer["PROBABILITY"].bytes.size(), 3 * 2 * sizeof(float));
  EXPECT_EQ(answer["ABSTAINED"].shape, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(answer["ABSTAINED"].bytes[1], 1);
  const std::vector<std::string> leaves = unpacked(answer["LEAF_ID"].bytes, 6), details = unpacked(answer["DETAIL"].bytes, 3);
  for (const std::string& leaf : leaves) EXPECT_TRUE(leaf == "one" || leaf == "two" || leaf == "three");
  EXPECT_NE(details[1].find("\"cause\":\"empty title\",\"parent_id\":null,\"parent_probability\":null,\"bundle\":\"digest\"}"), std::string::npos) << details[1];
  EXPECT_EQ(requests[1].answer.size(), 1u);
  EXPECT_EQ(instance_.executed, 4u);
  unload();
}

TEST_F(TritonBackend, OneRequestFailsAlone) {
  ASSERT_EQ(load(), "");
  std::vector<TRITONBACKEND_Request> requests;
  std::vector<std::string> says;
  const auto bad = [&](TRITONBACKEND_Request made, const std::string& message) {
    requests.push_back(request({"ab"}));
    says.push_back("");
    requests.push_back(std::move(made));
    says.push_back(message);
  };
  TRITONBACKEND_Request made = request({"a", "b"});
  made.inputs[0].pieces[0].pop_back();
  bad(made, "TITLE ends within text 1 of 2");
  made = request({"a"});
  made.inputs[0].pieces[0] += 'x';
  bad(made, "TITLE has 1 bytes behind its 1 texts");
  made = request({"a"});
  made.inputs[0].shape = {1, INT64_MAX};
  bad(made, "TITLE must have shape (rows, 1)");
  made.inputs[0].shape = {-1, 1};
  bad(made, "TITLE must have shape (rows, 1)");
  made.inputs[0].shape = {1};
  bad(made, "got (1)");
  made.inputs[0].shape = {INT64_MAX, 1};
  bad(made, "TITLE ends within text 1");
  made.inputs[0].type = TRITONSERVER_TYPE_FP32;
  bad(made, "hold BYTES");
  made = request({"a"});
  made.inputs[0].pieces.clear();
  bad(made, "TITLE ends within text 0 of 1: it has 0 bytes");
  made = request({"a"});
  made.inputs[0].memory = TRITONSERVER_MEMORY_GPU;
  bad(made, "memory of the host");
  made = request({"a"}, {"b"});
  made.inputs.erase(made.inputs.begin());
  bad(made, "TITLE must have shape (rows, 1), got none");
  bad(request({"a"}, {"a", "b"}), "MALL_CATEGORY has 2 rows, TITLE 1");
  for (const int64_t k : {int64_t{0}, int64_t{1001}, int64_t{-1}, INT64_MIN}) {
    made = request({"a"});
    made.parameters = {{"other", TRITONSERVER_PARAMETER_INT, "", 3}, {"top_k", TRITONSERVER_PARAMETER_INT, "", k}};
    bad(made, "top_k must be a whole number from 1 to 1000, got " + std::to_string(k));
  }
  made.parameters = {{"top_k", TRITONSERVER_PARAMETER_STRING, "many", 0}};
  bad(made, "got 'many'");
  made.parameters = {{"top_k", TRITONSERVER_PARAMETER_BOOL, "", 0}};
  bad(made, "another type");
  made = request({"a"});
  made.refuse_output = true;
  bad(made, "no room for outputs");
  execute(requests);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (says[i].empty()) EXPECT_TRUE(requests[i].error.empty() && requests[i].answer.size() == 4) << i << requests[i].error;
    else EXPECT_NE(requests[i].error.find(says[i]), std::string::npos) << requests[i].error << " does not say " << says[i];
  }
  EXPECT_EQ(instance_.failed, requests.size() / 2);
  std::vector<TRITONBACKEND_Request> only{made};
  only[0].refuse_output = false;
  only[0].inputs.clear();
  execute(only);  // a batch of nothing but errors
  EXPECT_NE(only[0].error.find("TITLE"), std::string::npos);
  unload();
}

TEST_F(TritonBackend, RefusesToLoad) {
  EXPECT_EQ(load(), "");
  unload();
  category::Recorded recorded{{"ab"}, {}, 1, {0}, {0.5f}, {0}};
  write({recorded});
  EXPECT_NE(load().find("does not answer as the engine did"), std::string::npos);
  recorded.labels = {0, 1};
  write({recorded});
  EXPECT_NE(load().find("wrong size"), std::string::npos);
  write({});
  const std::string config = model_.config;
  for (const auto& [from, to, says] : {std::array<std::string, 3>{"\"2\"", "\"0\"", "top_k"}, {"exact", "half", "mode"}, {"\"1\"", "\"x\"", "threads"}}) {
    model_.config = config;
    model_.config.replace(model_.config.find(from), from.size(), to);
    EXPECT_NE(load().find(says), std::string::npos);
  }
  model_.config = config;
  model_.version = 2;
  EXPECT_NE(load().find("2/classifier.bin"), std::string::npos);
  EXPECT_EQ(TRITONBACKEND_Initialize(nullptr), nullptr);
  server_major = 2;
  TRITONSERVER_Error* error = TRITONBACKEND_Initialize(nullptr);
  ASSERT_NE(error, nullptr);
  EXPECT_NE(error->message.find("the server has 2.19"), std::string::npos);
  TRITONSERVER_ErrorDelete(error);
  server_major = 1;
}

}  // namespace
}  // namespace aitems::triton
