// Opening checkpoints with as many tensors as DeepSeek-V3's (58 layers of 256 experts, small
// shapes) takes less than two seconds; every fault of a checkpoint is one line that names it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>

#include "fathom/base/json.h"
#include "fathom/testing/model_session.h"

namespace fathom::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int64_t kHidden = 16, kVocab = 32, kRank = 8, kHead = 4, kInner = 8;

struct Entry {
  std::string name;
  std::vector<int64_t> shape;
  std::string dtype = "BF16";
};

// A checkpoint of the V3 form: three dense layers, then `sparse` of `experts`; in two files.
class Checkpoint {
 public:
  Checkpoint(int64_t experts, int64_t sparse) : experts_(experts), layers_(3 + sparse) {
    directory_ =
        fs::temp_directory_path() / fmt::format("fathom-faults-{}-{}", ::getpid(), experts);
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    add("model.embed_tokens.weight", {kVocab, kHidden});
    add("model.norm.weight", {kHidden});
    add("lm_head.weight", {kVocab, kHidden});
    for (int64_t i = 0; i < layers_; ++i) add_layer(fmt::format("model.layers.{}.", i), i);
  }
  ~Checkpoint() { fs::remove_all(directory_); }
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  std::vector<Entry>& entries() { return entries_; }
  Entry& entry(const std::string& name) {
    const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) {
      return e.name == name;
    });
    CHECK(found != entries_.end(), "no tensor {}", name);
    return *found;
  }
  fs::path file(int i) const {
    return directory_ / fmt::format("model-0000{}-of-00002.safetensors", i + 1);
  }

  void write() const {
    Json map = Json::object();
    for (int f = 0; f < 2; ++f) {
      Json header = Json::object();
      size_t at = 0;
      for (size_t i = static_cast<size_t>(f); i < entries_.size(); i += 2) {
        size_t bytes = entries_[i].dtype == "F32" ? 4 : entries_[i].dtype == "I64" ? 8 : 2;
        for (const int64_t dim : entries_[i].shape) bytes *= static_cast<size_t>(dim);
        header[entries_[i].name] = {
            {"dtype", entries_[i].dtype},
            {"shape", entries_[i].shape},
            {"data_offsets", {at, at + bytes}}};
        map[entries_[i].name] = file(f).filename().string();
        at += bytes;
      }
      std::string text = header.dump();
      text.append((8 - text.size() % 8) % 8, ' ');
      const uint64_t length = text.size();
      std::ofstream out(file(f), std::ios::binary);
      out.write(reinterpret_cast<const char*>(&length), sizeof(length));
      out << text << std::string(at, '\0');
    }
    std::ofstream(directory_ / "model.safetensors.index.json") << Json{{"weight_map", map}}.dump();
    std::ofstream(directory_ / "config.json") << config().dump();
  }

  Result<std::unique_ptr<ModelSession>> open() const {
    return ModelSession::open(
        directory_.string(),
        {.threads = 2, .max_sequences = 1, .max_sequence_tokens = 16, .max_step_tokens = 16}
    );
  }

 private:
  void add(const std::string& name, std::vector<int64_t> shape, const std::string& dtype = "BF16") {
    entries_.push_back({name, std::move(shape), dtype});
  }
  void add_mlp(const std::string& name) {
    add(name + "gate_proj.weight", {kInner, kHidden});
    add(name + "up_proj.weight", {kInner, kHidden});
    add(name + "down_proj.weight", {kHidden, kInner});
  }
  void add_layer(const std::string& name, int64_t index) {
    add(name + "input_layernorm.weight", {kHidden});
    add(name + "post_attention_layernorm.weight", {kHidden});
    add(name + "self_attn.q_a_proj.weight", {kRank, kHidden});
    add(name + "self_attn.q_a_layernorm.weight", {kRank});
    add(name + "self_attn.q_b_proj.weight", {2 * kHead, kRank});
    add(name + "self_attn.kv_a_proj_with_mqa.weight", {kRank + kHead, kHidden});
    add(name + "self_attn.kv_a_layernorm.weight", {kRank});
    add(name + "self_attn.kv_b_proj.weight", {2 * kHead, kRank});
    add(name + "self_attn.o_proj.weight", {kHidden, kHead});
    if (index < 3) return add_mlp(name + "mlp.");
    add(name + "mlp.gate.weight", {experts_, kHidden});
    add(name + "mlp.gate.e_score_correction_bias", {experts_}, "F32");
    for (int64_t e = 0; e < experts_; ++e) add_mlp(fmt::format("{}mlp.experts.{}.", name, e));
    add_mlp(name + "mlp.shared_experts.");
  }
  Json config() const {
    return {
        {"architectures", {"DeepseekV3ForCausalLM"}},
        {"model_type", "deepseek_v3"},
        {"vocab_size", kVocab},
        {"hidden_size", kHidden},
        {"intermediate_size", kInner},
        {"moe_intermediate_size", kInner},
        {"num_hidden_layers", layers_},
        {"num_attention_heads", 1},
        {"num_key_value_heads", 1},
        {"q_lora_rank", kRank},
        {"kv_lora_rank", kRank},
        {"qk_nope_head_dim", kHead},
        {"qk_rope_head_dim", kHead},
        {"v_head_dim", kHead},
        {"n_routed_experts", experts_},
        {"n_shared_experts", 1},
        {"num_experts_per_tok", 2},
        {"n_group", 2},
        {"topk_group", 1},
        {"topk_method", "noaux_tc"},
        {"scoring_func", "sigmoid"},
        {"norm_topk_prob", true},
        {"routed_scaling_factor", 2.5},
        {"first_k_dense_replace", 3},
        {"moe_layer_freq", 1},
        {"max_position_embeddings", 64},
        {"rms_norm_eps", 1e-6},
        {"rope_theta", 10000.0},
        {"rope_scaling", nullptr},
        {"hidden_act", "silu"},
        {"tie_word_embeddings", false},
        {"torch_dtype", "bfloat16"},
        {"bos_token_id", 0},
        {"eos_token_id", 1},
    };
  }

  int64_t experts_, layers_;
  fs::path directory_;
  std::vector<Entry> entries_;
};

TEST(CheckpointFaults, ManyTensorsOpenInTwoSeconds) {
  Checkpoint checkpoint(256, 58);
  ASSERT_GT(checkpoint.entries().size(), 45000u);
  checkpoint.write();
  const auto start = std::chrono::steady_clock::now();
  const auto session = checkpoint.open();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(session.ok()) << session.error().message;
  RecordProperty("milliseconds", static_cast<int>(seconds.count() * 1000));
  EXPECT_LT(seconds.count(), 2.0);
}

// The error of a checkpoint to which `damage` happened, before or after it was written.
std::string error_after(
    const std::function<void(Checkpoint&)>& before,
    const std::function<void(Checkpoint&)>& after = [](Checkpoint&) {}
) {
  Checkpoint checkpoint(4, 2);
  before(checkpoint);
  checkpoint.write();
  after(checkpoint);
  const auto session = checkpoint.open();
  if (session.ok()) return "";
  EXPECT_EQ(session.error().message.find('\n'), std::string::npos);
  return session.error().message;
}

const std::string kExpert = "model.layers.4.mlp.experts.3.up_proj.weight";

TEST(CheckpointFaults, NoFaultNoError) {
  EXPECT_EQ(error_after([](Checkpoint&) {}), "");
}

TEST(CheckpointFaults, MissingShard) {
  const std::string message =
      error_after([](Checkpoint&) {}, [](Checkpoint& c) { fs::remove(c.file(1)); });
  EXPECT_THAT(message, HasSubstr("model-00002-of-00002.safetensors"));
}

TEST(CheckpointFaults, TruncatedFile) {
  const std::string message = error_after(
      [](Checkpoint&) {},
      [](Checkpoint& c) { fs::resize_file(c.file(0), fs::file_size(c.file(0)) - 5); }
  );
  EXPECT_THAT(message, HasSubstr("model-00001-of-00002.safetensors"));
  EXPECT_THAT(message, HasSubstr("truncated"));
}

TEST(CheckpointFaults, WrongShape) {
  const std::string message = error_after([](Checkpoint& c) {
    c.entry(kExpert).shape = {kHidden, kInner};
  });
  EXPECT_THAT(message, HasSubstr(kExpert));
  EXPECT_THAT(message, HasSubstr("bf16[16,8], [8,16] wanted"));
}

TEST(CheckpointFaults, WrongDtype) {
  const std::string message = error_after([](Checkpoint& c) { c.entry(kExpert).dtype = "I64"; });
  EXPECT_THAT(message, HasSubstr(kExpert));
  EXPECT_THAT(message, HasSubstr("i64"));
}

TEST(CheckpointFaults, ExtraTensor) {
  const std::string message = error_after([](Checkpoint& c) {
    c.entries().push_back({"model.layers.4.lora", {4}});
  });
  EXPECT_THAT(message, HasSubstr("model.layers.4.lora"));
  EXPECT_THAT(message, HasSubstr("left over"));
}

TEST(CheckpointFaults, MissingTensor) {
  const std::string message =
      error_after([](Checkpoint& c) { c.entry(kExpert).name = "model.stray"; });
  EXPECT_THAT(message, HasSubstr("tensor " + kExpert + " [8,16] is missing"));
}

}  // namespace
}  // namespace fathom::testing
