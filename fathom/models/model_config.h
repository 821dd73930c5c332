// ModelConfig: the facts of a model, read once from config.json or from a GGUF file's metadata,
// validated, then immutable. Nothing is inferred later from the presence of a tensor. What we do
// not know (architecture, activation, rope type, quantisation, dtype) is an Error that names it and
// says what is supported.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fathom/base/json.h"
#include "fathom/base/result.h"
#include "fathom/core/dtype.h"
#include "fathom/ops/moe/moe_gate.h"
#include "fathom/ops/rope/rope.h"
#include "fathom/weights/gguf.h"

namespace fathom::models {

enum class Family : uint8_t { llama, qwen2, qwen3, deepseek };

// How the rotary frequencies are stretched beyond the trained context.
enum class RopeScaling : uint8_t {
  none,
  llama3,   // by bands of wavelength (Llama 3.1)
  factors,  // divided by the file's own factors (GGUF rope_freqs.weight)
  yarn,     // low frequencies divided by the factor, high ones kept, a ramp between
};

struct RopeConfig {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::none;
  ops::RopePairs pairs = ops::RopePairs::halves;
  double factor = 1;  // llama3: factor, the two band limits and the trained context
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  double original_context = 8192;
  double beta_fast = 32;  // yarn: turns within the trained context that bound the ramp
  double beta_slow = 1;
  double mscale = 1;  // yarn: of the rotated parts, over mscale_all_dim's
  double mscale_all_dim = 0;

  // yarn's attention temperature for m = mscale or mscale_all_dim: 0.1 m ln(factor) + 1.
  double attention_scale(double m) const;
};

// Multi-head latent attention: keys and values of all heads come from one latent row per token
// (DeepSeek-V2, section 2.1).
struct MlaConfig {
  int64_t query_rank = 0;  // Q; 0: queries are projected from the hidden state at once
  int64_t latent = 0;      // L
  int64_t nope_dim = 0;    // of a head's query and key, without position
  int64_t rope_dim = 0;    // R
  int64_t value_dim = 0;
};

// Layers whose MLP is a choice of experts.
struct MoeConfig {
  int64_t experts = 0;         // E
  int64_t shared_experts = 0;  // always on, as one MLP of shared_experts * intermediate
  int64_t experts_per_token = 0;
  int64_t intermediate = 0;  // Im
  int64_t first_layer = 0;   // layers below it are dense
  int64_t layer_step = 1;
  ops::MoeGate::Scoring scoring = ops::MoeGate::Scoring::softmax;
  bool score_bias = false;  // added for choosing only
  int64_t groups = 1;
  int64_t kept_groups = 1;
  ops::MoeGate::GroupScore group_score = ops::MoeGate::GroupScore::max;
  bool renormalise = false;
  float scale = 1;

  bool holds(int64_t layer) const { return layer >= first_layer && layer % layer_step == 0; }
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
  std::optional<MlaConfig> mla = {};
  std::optional<MoeConfig> moe = {};
  int64_t nextn_layers = 0;              // MTP layers behind the model's own
  bool fp8_blocks = false;               // matrices are e4m3 with a scale per 128x128 block
  bool int8_channels = false;            // matrices are int8 with a scale per row
  bool fp8_channels = false;             // matrices are e4m3 with a scale per row
  bool fp8_matrices = false;             // matrices are e4m3 with one scale each
  bool ue8m0 = false;                    // scales of activations are powers of two
  DType dtype = DType::bf16;             // of the checkpoint's matrices; GGUF: of most of them
  std::vector<int32_t> end_tokens = {};  // config.json's eos_token_id

  // Rotated elements of a head.
  int64_t rope_dim() const { return mla ? mla->rope_dim : head_dim; }

  // One fact a line, for doctor and /server_info.
  std::string describe() const;
};

// From the JSON of config.json; both transformers 4 and 5 spellings. `source` names it in messages.
Result<ModelConfig> parse_model_config(const Json& json, const std::string& source);
Result<ModelConfig> parse_model_config(const weights::GgufFile& file);

// What every source's facts must satisfy; both parsers end with it.
Result<void> validate(const ModelConfig& config, const std::string& source);

}  // namespace fathom::models
