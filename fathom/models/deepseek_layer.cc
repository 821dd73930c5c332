#include "fathom/models/deepseek_layer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "fathom/ops/embed/row_gather.h"
#include "fathom/ops/moe/grouped_moe.h"

namespace fathom::models {
namespace {

// One over the root of the whole head's width, in every form of the attention, times the square of
// YaRN's temperature.
float score_scale(const ModelConfig& config) {
  const double temperature = config.rope.attention_scale(config.rope.mscale_all_dim);
  const double width = static_cast<double>(config.mla->nope_dim + config.mla->rope_dim);
  return static_cast<float>(temperature * temperature / std::sqrt(width));
}

layers::MlaShape attention_shape(const ModelConfig& config, const ModelOptions& options) {
  const MlaConfig& mla = *config.mla;
  return {
      .width = config.hidden,
      .heads = config.heads,
      .query_rank = mla.query_rank,
      .latent = mla.latent,
      .nope_dim = mla.nope_dim,
      .rope_dim = mla.rope_dim,
      .value_dim = mla.value_dim,
      .norm_eps = config.rms_eps,
      .scale = score_scale(config),
      .forms = options.mla,
  };
}

bool fuses_shared(const ModelConfig& config, const ModelOptions& options) {
  return options.fuse_shared_expert && config.moe->shared_experts == 1;
}

layers::MoeShape moe_shape(const ModelConfig& config, const ModelOptions& options) {
  const MoeConfig& moe = *config.moe;
  return {
      .width = config.hidden,
      .experts = moe.experts,
      .intermediate = moe.intermediate,
      .shared_intermediate = moe.shared_experts * moe.intermediate,
      .score_bias = moe.score_bias,
      .gate =
          {.scoring = moe.scoring,
           .experts_per_token = static_cast<int>(moe.experts_per_token),
           .groups = static_cast<int>(moe.groups),
           .kept_groups = static_cast<int>(moe.kept_groups),
           .group_score = moe.group_score,
           .renormalise = moe.renormalise,
           .scale = moe.scale},
      .fuse_shared = fuses_shared(config, options),
      .scale_in_gate = options.scale_in_gate,
  };
}

}  // namespace

void DeepseekLayer::load(
    weights::Loader& loader,
    const ModelConfig& config,
    const ModelOptions& options,
    int64_t index,
    const Tensor& rope_table
) {
  const weights::Scope name = weights::Scope("model") / "layers" / index;
  const int64_t C = config.hidden;
  attention_norm.load(loader, name / "input_layernorm", C, config.rms_eps);
  attention.load(loader, name / "self_attn", attention_shape(config, options), rope_table);
  mlp_norm.load(loader, name / "post_attention_layernorm", C, config.rms_eps);
  if (config.moe && (index >= config.layers || config.moe->holds(index))) {
    mlp.emplace<layers::Moe>().load(loader, name / "mlp", moe_shape(config, options));
  } else {
    mlp.emplace<layers::Mlp>().load(loader, name / "mlp", C, config.intermediate, false);
  }
}

layers::NormInput DeepseekLayer::input(Stream& s) const {
  if (std::exchange(s.first, false))
    return {.norm = &attention_norm, .x = s.residual, .normed = s.x};
  return {.norm = &attention_norm, .x = s.branch, .residual = s.residual, .normed = s.x};
}

void DeepseekLayer::finish(Exec& exec, Stream& s) const {
  probe(exec, "layer.attention", s.branch);
  const layers::NormInput in{
      .norm = &mlp_norm, .x = s.branch, .residual = s.residual, .normed = s.x};
  std::visit([&](const auto& layer) { layer.behind_norm(exec, in, s.branch); }, mlp);
  probe(exec, "layer.mlp", s.branch);
}

void DeepseekLayer::attend(
    Exec& exec, Stream& s, const layers::BatchView& batch, const layers::LayerKv& kv
) const {
  attention(exec, input(s), batch, kv, s.branch);
  probe(exec, "layer.input", s.residual);
}

void DeepseekLayer::operator()(
    Exec& exec, Stream& s, const layers::BatchView& batch, const layers::LayerKv& kv
) const {
  attend(exec, s, batch, kv);
  finish(exec, s);
}

void DeepseekLayer::last(
    Exec& exec,
    Stream& s,
    const layers::BatchView& batch,
    const layers::BatchView& asking,
    const layers::LayerKv& kv
) const {
  const int64_t n = asking.rows();
  const layers::NormInput in = input(s);
  s.branch = s.branch.slice(0, 0, n);
  attention.last_tokens(exec, in, batch, asking, kv, s.branch);
  probe(exec, "layer.input", s.residual);
  s.x = s.x.slice(0, 0, n);
  ops::row_gather(exec, {.x = s.residual, .rows = asking.logit_rows, .y = s.x});
  s.residual = std::exchange(s.x, s.residual.slice(0, 0, n));
  if (n > 0) finish(exec, s);
}

int64_t deepseek_layer_bytes(
    const ModelConfig& config, const ModelOptions& options, const StepLimits& limits
) {
  const MlaConfig& mla = *config.mla;
  const int64_t H = config.heads, C = config.hidden, T = limits.tokens;
  const int64_t element = info(options.activations).block_bytes;
  const int64_t floats = static_cast<int64_t>(sizeof(float));
  const int64_t queries = H * (mla.nope_dim + mla.rope_dim);
  const int64_t attention = 2 * mla.query_rank + 2 * queries + 3 * mla.latent + mla.rope_dim +
                            H * (2 * mla.latent + mla.value_dim);
  int64_t widest = std::max(attention, 3 * config.intermediate) * element;
  int64_t experts = 0;  // scratch of a product over them
  if (config.moe) {
    const int64_t slots = config.moe->experts_per_token + 1, I = config.moe->intermediate;
    const int64_t shared = 3 * config.moe->shared_experts * I;
    const int64_t gate = config.moe->experts + 6 * slots;  // scores, ids, weights, places
    widest = std::max(widest, (2 * C + 3 * I + shared) * element + (gate + slots * C) * floats);
    if (options.activations == DType::bf16) {  // else no GPU
      experts = ops::grouped_moe_scratch_bytes(
          {.tokens = T,
           .slots = slots,
           .experts = config.moe->experts + 1,
           .hidden = C,
           .intermediate = I}
      );
    }
  }
  // A kernel may keep another form of its input (rounded, reordered) as scratch.
  const int64_t scratch = 2 * std::max({C, config.intermediate, H * mla.latent}) * floats;
  constexpr int64_t kTensors = 32;  // alive at once, at most, each rounded up
  const int64_t expanded =
      options.mla.expands() ? layers::MlaExpanded::step_bytes(attention_shape(config, options), T)
                            : 0;
  return T * widest + (T + 16) * scratch + kTensors * Workspace::kAlign + expanded + experts;
}

}  // namespace fathom::models
