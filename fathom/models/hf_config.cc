// ModelConfig from config.json, in the spellings of transformers 4 (rope_theta, rope_scaling,
// torch_dtype) and 5 (rope_parameters, dtype).
#include <array>

#include "fathom/models/config_keys.h"
#include "fathom/models/deepseek_config.h"
#include "fathom/models/quantisation_config.h"

namespace fathom::models {
namespace {

constexpr std::string_view kArchitectures =
    "LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, DeepseekV2ForCausalLM, "
    "DeepseekV3ForCausalLM";

void read_family(Keys& keys, ModelConfig& config) {
  std::string name = "missing";
  if (keys.has("architectures")) {
    const Json& list = keys["architectures"];
    name = list.is_array() && list.size() == 1 && list[0].is_string() ? list[0].get<std::string>()
                                                                      : list.dump();
  }
  config.architecture = name;
  if (name == "LlamaForCausalLM") {
    config.family = Family::llama;
  } else if (name == "Qwen2ForCausalLM") {
    config.family = Family::qwen2;
  } else if (name == "Qwen3ForCausalLM") {
    config.family = Family::qwen3;
  } else if (name == "DeepseekV2ForCausalLM" || name == "DeepseekV3ForCausalLM") {
    config.family = Family::deepseek;
  } else {
    keys.refuse("architectures", name, kArchitectures);
  }
}

void read_dtype(Keys& keys, ModelConfig& config) {
  const char* key = keys.has("dtype") ? "dtype" : "torch_dtype";
  const std::string name = keys.string(key, "float32");
  if (name == "bfloat16") {
    config.dtype = DType::bf16;
  } else if (name == "float16") {
    config.dtype = DType::f16;
  } else if (name == "float32") {
    config.dtype = DType::f32;
  } else {
    keys.refuse(key, name, "bfloat16, float16, float32");
  }
}

// `rope` is rope_parameters (5) or rope_scaling (4), whose type may be spelt "type" or "rope_type".
void read_scaling(Keys& keys, const char* key, ModelConfig& config) {
  if (!keys[key].is_object()) {
    return keys.refuse(key, keys[key].dump(), "an object with rope_type");
  }
  Keys rope(keys[key], keys.source());
  const std::string type = rope.string(rope.has("rope_type") ? "rope_type" : "type", "default");
  config.rope.theta = rope.number("rope_theta", config.rope.theta);
  if (type == "llama3") {
    config.rope.scaling = RopeScaling::llama3;
    config.rope.factor = rope.number("factor");
    config.rope.low_frequency_factor = rope.number("low_freq_factor");
    config.rope.high_frequency_factor = rope.number("high_freq_factor");
    config.rope.original_context = rope.number("original_max_position_embeddings");
  } else if (type == "yarn" && config.family == Family::deepseek) {
    read_yarn(rope, config.rope);
  } else if (type != "default") {
    keys.refuse("rope_type", type, "default, llama3; yarn in DeepSeek models");
  }
  if (rope.number("partial_rotary_factor", 1.0) != 1.0) {
    keys.refuse("partial_rotary_factor", rope["partial_rotary_factor"].dump(), "1");
  }
  if (rope.failure()) keys.refuse(key, rope.failure()->message, "complete rope settings");
}

void read_rope(Keys& keys, ModelConfig& config) {
  config.rope.theta = keys.number("rope_theta", 10000.0);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (keys.has(key)) return read_scaling(keys, key, config);
  }
}

void read_sizes(Keys& keys, ModelConfig& config) {
  config.layers = keys.integer("num_hidden_layers");
  config.hidden = keys.integer("hidden_size");
  config.heads = keys.integer("num_attention_heads");
  config.kv_heads = keys.integer("num_key_value_heads", config.heads);
  const int64_t even_share = config.heads > 0 ? config.hidden / config.heads : 0;
  config.head_dim = keys.integer("head_dim", even_share);
  config.intermediate = keys.integer("intermediate_size");
  config.vocab = keys.integer("vocab_size");
  config.context = keys.integer("max_position_embeddings", 2048);
  config.rms_eps = keys.number("rms_norm_eps", 1e-6);
}

void read_flags(Keys& keys, ModelConfig& config) {
  const bool llama = config.family == Family::llama;
  const bool attention_bias = keys.boolean("attention_bias", false);
  config.qkv_bias = config.family == Family::qwen2 || attention_bias;
  config.output_bias = config.family != Family::qwen2 && attention_bias;
  config.mlp_bias = llama && keys.boolean("mlp_bias", false);
  config.qk_norm = config.family == Family::qwen3;
  config.tied_embeddings = keys.boolean("tie_word_embeddings", false);
  if (const std::string act = keys.string("hidden_act", "silu"); act != "silu") {
    keys.refuse("hidden_act", act, "silu");
  }
  if (!llama && keys.boolean("use_sliding_window", false)) {
    keys.refuse("use_sliding_window", "true", "false");
  }
}

void read_end_tokens(Keys& keys, ModelConfig& config) {
  if (!keys.has("eos_token_id")) return;
  const Json& value = keys["eos_token_id"];
  for (const Json& token : value.is_array() ? value : Json::array({value})) {
    if (!token.is_number_integer()) {
      return keys.refuse("eos_token_id", value.dump(), "a token id or a list of them");
    }
    config.end_tokens.push_back(token.get<int32_t>());
  }
}

}  // namespace

Result<ModelConfig> parse_model_config(const Json& json, const std::string& source) {
  if (!json.is_object()) return error("{}: not a JSON object", source);
  Keys keys(json, source);
  ModelConfig config;
  read_family(keys, config);
  read_dtype(keys, config);
  read_sizes(keys, config);
  read_rope(keys, config);
  read_flags(keys, config);
  read_quantisation(keys, config);
  read_end_tokens(keys, config);
  if (config.family == Family::deepseek) read_deepseek(keys, config);
  if (keys.failure()) return *keys.failure();
  if (Result<void> valid = validate(config, source); !valid.ok()) return valid.error();
  return config;
}

}  // namespace fathom::models
