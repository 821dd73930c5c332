// ModelConfig from a GGUF file's metadata and list of tensors.
#include <map>

#include "fathom/models/model_config.h"

namespace fathom::models {
namespace {

using weights::GgufFile;

// Keys under the architecture's prefix ("llama.block_count"); keeps the first one that is missing.
class ArchitectureKeys {
 public:
  ArchitectureKeys(const GgufFile& file, std::string architecture)
      : file_(file), prefix_(std::move(architecture) + ".") {}

  int64_t integer(const std::string& key, std::optional<int64_t> otherwise = {}) {
    return want(key, file_.integer(prefix_ + key), otherwise);
  }
  double number(const std::string& key, std::optional<double> otherwise = {}) {
    return want(key, file_.number(prefix_ + key), otherwise);
  }
  std::string string(const std::string& key, std::string_view otherwise) {
    return std::string(file_.string(prefix_ + key).value_or(otherwise));
  }
  const std::string& missing() const { return missing_; }

 private:
  template <class T>
  T want(const std::string& key, std::optional<T> value, std::optional<T> otherwise) {
    if (!value && !otherwise && missing_.empty()) missing_ = prefix_ + key;
    return value ? *value : otherwise.value_or(T{});
  }

  const GgufFile& file_;
  std::string prefix_;
  std::string missing_;
};

bool has_tensor(const GgufFile& file, const std::string& name) {
  return file.index().tensors.contains(name);
}

// The dtype that holds most bytes.
DType main_dtype(const GgufFile& file) {
  std::map<DType, size_t> bytes;
  for (const auto& [name, entry] : file.index().tensors) bytes[entry.dtype] += entry.bytes;
  DType best = DType::f32;
  for (const auto& [dtype, total] : bytes) {
    if (total > bytes[best]) best = dtype;
  }
  return best;
}

Result<Family> family_of(const std::string& architecture, const std::string& path) {
  if (architecture == "llama") return Family::llama;
  if (architecture == "qwen2") return Family::qwen2;
  if (architecture == "qwen3") return Family::qwen3;
  return error(
      "{}: general.architecture is {}; supported: llama, qwen2, qwen3", path, architecture
  );
}

void read_sizes(ArchitectureKeys& keys, const GgufFile& file, ModelConfig& config) {
  config.layers = keys.integer("block_count");
  config.hidden = keys.integer("embedding_length");
  config.intermediate = keys.integer("feed_forward_length");
  config.heads = keys.integer("attention.head_count");
  config.kv_heads = keys.integer("attention.head_count_kv", config.heads);
  config.head_dim =
      keys.integer("attention.key_length", config.heads > 0 ? config.hidden / config.heads : 0);
  config.context = keys.integer("context_length");
  config.rms_eps = keys.number("attention.layer_norm_rms_epsilon");
  const auto embedding = file.index().tensors.find("token_embd.weight");
  if (embedding != file.index().tensors.end()) config.vocab = embedding->second.shape.front();
}

}  // namespace

Result<ModelConfig> parse_model_config(const GgufFile& file) {
  ModelConfig config;
  config.architecture = file.string("general.architecture").value_or("missing");
  const Result<Family> family = family_of(config.architecture, file.path());
  if (!family.ok()) return family.error();
  config.family = *family;
  ArchitectureKeys keys(file, config.architecture);
  read_sizes(keys, file, config);
  config.rope.theta = keys.number("rope.freq_base", 10000.0);
  // Converters permute the q and k rows of this architecture to adjacent pairs.
  config.rope.pairs =
      config.family == Family::llama ? ops::RopePairs::adjacent : ops::RopePairs::halves;
  if (has_tensor(file, "rope_freqs.weight")) config.rope.scaling = RopeScaling::factors;
  config.qkv_bias = has_tensor(file, "blk.0.attn_q.bias");
  config.output_bias = has_tensor(file, "blk.0.attn_output.bias");
  config.mlp_bias = has_tensor(file, "blk.0.ffn_down.bias");
  config.qk_norm = config.family == Family::qwen3;
  config.tied_embeddings = !has_tensor(file, "output.weight");
  config.dtype = main_dtype(file);
  if (const auto end = file.integer("tokenizer.ggml.eos_token_id")) {
    config.end_tokens.push_back(static_cast<int32_t>(*end));
  }
  if (!keys.missing().empty()) return error("{}: {} is missing", file.path(), keys.missing());
  const std::string scaling = keys.string("rope.scaling.type", "none");
  if (scaling != "none") {
    return error("{}: rope.scaling.type is {}; supported: none", file.path(), scaling);
  }
  if (keys.integer("rope.dimension_count", config.head_dim) != config.head_dim) {
    return error(
        "{}: rope.dimension_count is not the head dimension {}; partial rotation is not supported",
        file.path(),
        config.head_dim
    );
  }
  if (Result<void> valid = validate(config, file.path()); !valid.ok()) return valid.error();
  return config;
}

}  // namespace fathom::models
