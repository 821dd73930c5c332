// ModelConfig: the facts of a model, read once from config.json or from a GGUF file's metadata,
// validated, then immutable. Nothing is inferred later from the presence of a tensor. What we do
// not know (architecture, activation, rope type, quantisation, dtype) is an Error that names it and
// says what is supported.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fathom/base/json.h"
#include "fathom/base/result.h"
#include "fathom/core/dtype.h"
#include "fathom/ops/rope/rope.h"
#include "fathom/weights/gguf.h"

namespace fathom::models {

enum class Family : uint8_t { llama, qwen2, qwen3 };

// How the rotary frequencies are stretched beyond the trained context.
enum class RopeScaling : uint8_t {
  none,
  llama3,   // by bands of wavelength (Llama 3.1)
  factors,  // divided by the file's own factors (GGUF rope_freqs.weight)
};

struct RopeConfig {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::none;
  ops::RopePairs pairs = ops::RopePairs::halves;
  double factor = 1;  // llama3: factor, the two band limits and the trained context
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  double original_context = 8192;
};

struct ModelConfig {
  Family family = Family::llama;
  std::string architecture;  // as the checkpoint names it: "LlamaForCausalLM", "qwen2"
  int64_t layers = 0;
  int64_t hidden = 0;        // C
  int64_t heads = 0;         // H
  int64_t kv_heads = 0;      // Hkv
  int64_t head_dim = 0;      // D
  int64_t intermediate = 0;  // I
  int64_t vocab = 0;         // V
  int64_t context = 0;       // positions that the model was made for
  double rms_eps = 1e-5;
  RopeConfig rope;
  bool qkv_bias = false;
  bool output_bias = false;  // of the attention's output projection
  bool mlp_bias = false;
  bool qk_norm = false;  // RMS norm over D of each query and key head, before rope
  bool tied_embeddings = false;
  DType dtype = DType::bf16;             // of the checkpoint's matrices; GGUF: of most of them
  std::vector<int32_t> end_tokens = {};  // config.json's eos_token_id

  // One fact a line, for doctor and /server_info.
  std::string describe() const;
};

// From the JSON of config.json; both transformers 4 and 5 spellings. `source` names it in messages.
Result<ModelConfig> parse_model_config(const Json& json, const std::string& source);
Result<ModelConfig> parse_model_config(const weights::GgufFile& file);

// What every source's facts must satisfy; both parsers end with it.
Result<void> validate(const ModelConfig& config, const std::string& source);

}  // namespace fathom::models
