// DeepSeek V2-Lite, V2, V3 and R1; which one is a matter of ModelConfig's facts.
//
//   x = embed(tokens)                                          [T, C]
//   each layer:
//     c, k    = W_kv_a norm(x)                                 [T, L], [T, R]: all that is cached
//     q       = W_q_b norm(W_q_a norm(x))   or   W_q norm(x)   [T, H, nope + R]
//     q', u   = q_nope W_UK, softmax(q' c + rope(q) rope(k)) c [T, H, L]
//     x      += W_o (u W_UV)                                   multi-head latent attention
//     x      += dense(norm(x))                                 the first layers
//             | sum of chosen experts(norm(x)) + shared(norm(x))
//   logits = W_head norm(x)                                    [n, V], of the wanted rows
#include "fathom/models/deepseek_v3.h"

#include <optional>
#include <vector>

#include "fathom/layers/embedding.h"
#include "fathom/models/deepseek_layer.h"
#include "fathom/models/deepseek_nextn.h"
#include "fathom/models/rope_table.h"
#include "fathom/ops/attention/mla_decode.h"
#include "fathom/ops/embed/row_gather.h"

namespace fathom::models {
namespace {

using layers::BatchView;
using layers::KvCache;
using weights::Loader;
using weights::Scope;

class DeepseekV3 final : public Model {
 public:
  explicit DeepseekV3(const ModelConfig& config) : config_(config) {}

  const ModelConfig& config() const override { return config_; }
  Result<void> load(Loader& loader, const ModelOptions& options) override;
  Tensor forward(Exec& exec, const BatchView& batch, KvCache& cache) const override;
  Tensor logits(Exec& exec, const Tensor& hidden) const override;
  const DeepseekNextn* nextn() const override { return nextn_ ? &*nextn_ : nullptr; }
  layers::KvLayout kv_layout() const override;
  int64_t max_step_bytes(const StepLimits& limits) const override;

 private:
  ModelConfig config_;
  ModelOptions options_;
  layers::Embedding embedding_;
  std::vector<DeepseekLayer> layers_;
  layers::RmsNorm final_norm_;
  layers::LmHead head_;
  std::optional<DeepseekNextn> nextn_;
};

Result<void> DeepseekV3::load(Loader& loader, const ModelOptions& options) {
  options_ = options;
  if (options.nextn && config_.nextn_layers == 0) {
    return error("{} has no MTP layer to draft with", config_.architecture);
  }
  if (options.fp8_kv && config_.mla->latent % 128 != 0)
    return error("FP8 rows of the cache need a latent of a multiple of 128 values");
  const Scope model("model");
  const int64_t C = config_.hidden, V = config_.vocab;
  const int64_t positions = options.max_positions > 0 ? options.max_positions : config_.context;
  const Tensor rope_table = make_rope_table(loader, config_, positions);
  embedding_.load(loader, model / "embed_tokens", V, C, config_.tied_embeddings);
  layers_.resize(static_cast<size_t>(config_.layers));
  for (int64_t i = 0; i < config_.layers; ++i) {
    layers_[static_cast<size_t>(i)].load(loader, config_, options, i, rope_table);
  }
  final_norm_.load(loader, model / "norm", C, config_.rms_eps);
  if (config_.tied_embeddings) {
    head_.tie(embedding_, V);
    loader.ignore(Scope("lm_head") / "weight");
  } else {
    head_.load(loader, Scope("lm_head"), V, C);
  }
  if (options.nextn) nextn_.emplace().load(loader, config_, options, embedding_, head_, rope_table);
  for (int64_t i = 0; i < config_.nextn_layers; ++i) {
    if (i > 0 || !options.nextn) loader.ignore_all(model / "layers" / (config_.layers + i));
  }
  return {};
}

Tensor DeepseekV3::forward(Exec& exec, const BatchView& batch, KvCache& cache) const {
  const int64_t T = batch.tokens_count(), C = config_.hidden, n = batch.logit_rows.dim(0);
  Workspace& workspace = *exec.workspace;
  const Tensor hidden = workspace.alloc(options_.activations, {n, C});
  Workspace::Mark mark(workspace);
  DeepseekLayer::Stream stream{
      .residual = workspace.alloc(options_.activations, {T, C}),
      .branch = workspace.alloc(options_.activations, {T, C}),
      .x = workspace.alloc(options_.activations, {T, C}),
  };
  embedding_(exec, batch.tokens, stream.residual);
  const int64_t before_last = config_.layers - 1;
  for (int64_t i = 0; i < before_last; ++i)
    layers_[static_cast<size_t>(i)](exec, stream, batch, cache.layer(i));
  const DeepseekLayer& last = layers_.back();
  last.attend(exec, stream, batch, cache.layer(before_last));
  // Only the wanted rows go through the last MLP, norm and head.
  const Tensor wanted = workspace.alloc(options_.activations, {n, C});
  ops::row_gather(exec, {.x = stream.branch, .rows = batch.logit_rows, .y = hidden});
  ops::row_gather(exec, {.x = stream.residual, .rows = batch.logit_rows, .y = wanted});
  stream = {.residual = wanted, .branch = hidden, .x = stream.x.slice(0, 0, n)};
  if (n > 0) last.finish(exec, stream);
  final_norm_.add(exec, hidden, wanted, hidden);
  probe(exec, "stream", wanted);
  probe(exec, "hidden", hidden);
  return hidden;
}

Tensor DeepseekV3::logits(Exec& exec, const Tensor& hidden) const {
  return head_(exec, hidden);
}

layers::KvLayout DeepseekV3::kv_layout() const {
  const int64_t L = config_.mla->latent, R = config_.mla->rope_dim;
  // Kernels on latents take no f16.
  const bool rounds = options_.bf16_latents && layers_.front().attention.in_codes();
  const DType host = rounds ? DType::bf16 : DType::f32;
  const DType rows = options_.kv_dtype == DType::f16 ? host : options_.kv_dtype;
  return {
      .layers = config_.layers + (nextn_ ? 1 : 0),
      .kv_heads = 1,
      .key_dim = options_.fp8_kv ? ops::mla_row_bytes(L, R) : L + R,
      .value_dim = 0,
      .dtype = options_.fp8_kv ? DType::u8 : rows,
      .state_dim = nextn_ ? config_.hidden : 0,
      .state_dtype = options_.activations,
  };
}

int64_t DeepseekV3::max_step_bytes(const StepLimits& limits) const {
  const int64_t element = info(options_.activations).block_bytes;
  const int64_t C = config_.hidden, n = limits.logit_rows;
  const int64_t stream = 5 * limits.tokens * C * element;
  const int64_t logits = n * config_.vocab * static_cast<int64_t>(sizeof(float));
  const int64_t scratch = 2 * (n + 16) * C * static_cast<int64_t>(sizeof(float));
  constexpr int64_t kTensors = 16;  // alive at once beside a layer's, at most, each rounded up
  return stream + 2 * n * C * element + logits + scratch + kTensors * Workspace::kAlign +
         deepseek_layer_bytes(config_, options_, limits) +
         (nextn_ ? 3 * limits.tokens * C * element : 0);
}

}  // namespace

std::unique_ptr<Model> make_deepseek_v3(const ModelConfig& config) {
  return std::make_unique<DeepseekV3>(config);
}

}  // namespace fathom::models
