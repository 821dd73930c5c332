// The dense family: Llama 2/3, SmolLM2, Qwen2/2.5 (bias on q, k, v), Qwen3 (norm on q and k heads).
//
//   x = embed(tokens)                                   [T, C]
//   each layer:
//     q, k, v = heads of W_qkv norm(x) (+ bias)         [T, H, D], [T, Hkv, D], [T, Hkv, D]
//     q, k    = rope(norm?(q)), rope(norm?(k))
//     x      += W_o attention(q, k, v)                  causal, over the paged cache
//     x      += W_down (silu(W_gate norm(x)) * W_up norm(x))
//   logits = W_head norm(x)                             [n, V], of the wanted rows
//
// The residual sum is fused into the norm that follows it.
#include "fathom/models/llama.h"

#include <algorithm>
#include <vector>

#include "fathom/base/prefetch.h"
#include "fathom/layers/attention.h"
#include "fathom/layers/embedding.h"
#include "fathom/layers/mlp.h"
#include "fathom/layers/norm.h"
#include "fathom/models/rope_table.h"
#include "fathom/ops/embed/row_gather.h"

namespace fathom::models {
namespace {

using layers::BatchView;
using layers::KvCache;
using weights::Loader;
using weights::Scope;

struct Layer {
  layers::RmsNorm attention_norm;
  layers::Attention attention;
  layers::RmsNorm mlp_norm;
  layers::Mlp mlp;
};

class Llama final : public Model {
 public:
  explicit Llama(const ModelConfig& config) : config_(config) {}

  const ModelConfig& config() const override { return config_; }
  Result<void> load(Loader& loader, const ModelOptions& options) override;
  Tensor forward(Exec& exec, const BatchView& batch, KvCache& cache) const override;
  Tensor logits(Exec& exec, const Tensor& hidden) const override;
  layers::KvLayout kv_layout() const override;
  int64_t max_step_bytes(const StepLimits& limits) const override;

 private:
  Layer load_layer(Loader& loader, const Scope& name, const Tensor& rope_table) const;

  ModelConfig config_;
  ModelOptions options_;
  layers::Embedding embedding_;
  std::vector<Layer> layers_;
  layers::RmsNorm final_norm_;
  layers::LmHead head_;
};

Layer Llama::load_layer(Loader& loader, const Scope& name, const Tensor& rope_table) const {
  const layers::AttentionShape shape{
      .width = config_.hidden,
      .heads = config_.heads,
      .kv_heads = config_.kv_heads,
      .head_dim = config_.head_dim,
      .qkv_bias = config_.qkv_bias,
      .output_bias = config_.output_bias,
      .qk_norm = config_.qk_norm,
      .norm_eps = config_.rms_eps,
      .rope_pairs = config_.rope.pairs,
  };
  const int64_t C = config_.hidden;
  Layer layer;
  layer.attention_norm.load(loader, name / "input_layernorm", C, config_.rms_eps);
  layer.attention.load(loader, name / "self_attn", shape, rope_table);
  layer.mlp_norm.load(loader, name / "post_attention_layernorm", C, config_.rms_eps);
  layer.mlp.load(loader, name / "mlp", C, config_.intermediate, config_.mlp_bias);
  // Old Llama checkpoints carry the frequencies that we derive.
  loader.ignore(name / "self_attn" / "rotary_emb" / "inv_freq");
  return layer;
}

Result<void> Llama::load(Loader& loader, const ModelOptions& options) {
  options_ = options;
  const Scope model("model");
  const int64_t C = config_.hidden, V = config_.vocab;
  const int64_t positions = options.max_positions > 0 ? options.max_positions : config_.context;
  const Tensor rope_table = make_rope_table(loader, config_, positions);
  embedding_.load(loader, model / "embed_tokens", V, C, config_.tied_embeddings);
  for (int64_t i = 0; i < config_.layers; ++i) {
    layers_.push_back(load_layer(loader, model / "layers" / i, rope_table));
  }
  final_norm_.load(loader, model / "norm", C, config_.rms_eps);
  if (config_.tied_embeddings) {
    head_.tie(embedding_, V);
    loader.ignore(Scope("lm_head") / "weight");
  } else {
    head_.load(loader, Scope("lm_head"), V, C);
  }
  return {};
}

Tensor Llama::forward(Exec& exec, const BatchView& batch, KvCache& cache) const {
  const int64_t T = batch.tokens_count(), C = config_.hidden, n = batch.logit_rows.dim(0);
  Workspace& workspace = *exec.workspace;
  const Tensor hidden = workspace.alloc(options_.activations, {n, C});
  Workspace::Mark mark(workspace);
  const Tensor wanted = workspace.alloc(options_.activations, {n, C});
  Tensor residual = workspace.alloc(options_.activations, {T, C});
  Tensor x = workspace.alloc(options_.activations, {T, C});
  embedding_(exec, batch.tokens, residual);
  probe(exec, "embedding", residual);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    prefetch(layer);
    layers::NormInput in{.norm = &layer.attention_norm, .x = x, .residual = residual, .normed = x};
    if (i == 0) in = {.norm = &layer.attention_norm, .x = residual, .normed = x};
    layer.attention(exec, in, batch, cache.layer(static_cast<int64_t>(i)), x);
    probe(exec, "layer.attention", x);
    if (i + 1 == layers_.size()) {
      // Behind the last keys and values only the wanted rows are of use.
      ops::row_gather(exec, {.x = x, .rows = batch.logit_rows, .y = hidden});
      ops::row_gather(exec, {.x = residual, .rows = batch.logit_rows, .y = wanted});
      x = hidden;
      residual = wanted;
      if (n == 0) break;
    }
    layer.mlp.behind_norm(
        exec, {.norm = &layer.mlp_norm, .x = x, .residual = residual, .normed = x}, x
    );
    probe(exec, "layer.mlp", x);
  }
  final_norm_.add(exec, hidden, wanted, hidden);
  probe(exec, "hidden", hidden);
  return hidden;
}

Tensor Llama::logits(Exec& exec, const Tensor& hidden) const {
  return head_(exec, hidden);
}

layers::KvLayout Llama::kv_layout() const {
  return {
      .layers = config_.layers,
      .kv_heads = config_.kv_heads,
      .key_dim = config_.head_dim,
      .value_dim = config_.head_dim,
      .dtype = options_.kv_dtype,
  };
}

int64_t Llama::max_step_bytes(const StepLimits& limits) const {
  const int64_t C = config_.hidden, I = config_.intermediate, D = config_.head_dim;
  const int64_t attention = (2 * config_.heads + 2 * config_.kv_heads) * D;
  const int64_t inner = std::max(attention, 3 * I);
  // A kernel may keep another form of its input (rounded to int8, reordered) as scratch.
  const int64_t scratch = 3 * std::max({C, I, config_.heads * D});
  const int64_t element = info(options_.activations).block_bytes;
  const int64_t floats = static_cast<int64_t>(sizeof(float));
  const int64_t activations = limits.tokens * (2 * C + inner) * element;
  const int64_t outputs = limits.logit_rows * (2 * C * element + config_.vocab * floats);
  const int64_t kernels = (limits.tokens + limits.logit_rows + 16) * scratch * floats;
  constexpr int64_t kTensors = 32;  // alive at once, at most, each rounded up
  return activations + outputs + kernels + kTensors * Workspace::kAlign;
}

}  // namespace

std::unique_ptr<Model> make_llama(const ModelConfig& config) {
  return std::make_unique<Llama>(config);
}

}  // namespace fathom::models
