#include "fathom/models/deepseek_nextn.h"

#include "fathom/ops/embed/row_gather.h"

namespace fathom::models {

void DeepseekNextn::load(
    weights::Loader& loader,
    const ModelConfig& config,
    const ModelOptions& options,
    const layers::Embedding& embedding,
    const layers::LmHead& head,
    const Tensor& rope_table
) {
  config_ = config;
  embedding_ = &embedding;
  const weights::Scope name = weights::Scope("model") / "layers" / config.layers;
  const int64_t C = config.hidden;
  token_norm_.load(loader, name / "enorm", C, config.rms_eps);
  hidden_norm_.load(loader, name / "hnorm", C, config.rms_eps);
  layer_.load(loader, config, options, config.layers, rope_table);
  const bool rounds = layer_.attention.in_codes();
  const weights::Scope merge = name / "eh_proj";
  if (rounds) {
    merge_.load_rounded(loader, merge, C, 2 * C);
  } else {
    merge_.load(loader, {{merge, C}}, 2 * C, false, weights::Precision::checkpoint);
  }
  head_norm_.load(loader, name / "shared_head" / "norm", C, config.rms_eps);
  head_ = head;
  const weights::Scope matrix =
      config.tied_embeddings ? weights::Scope("model") / "embed_tokens" : weights::Scope("lm_head");
  if (rounds) head_.load_rounded(loader, matrix, config.vocab, C);
  loader.ignore(name / "embed_tokens" / "weight");
  loader.ignore(name / "shared_head" / "head" / "weight");
}

// h' of all tokens; in the workspace.
DeepseekLayer::Stream DeepseekNextn::merge(
    Exec& exec, const layers::BatchView& batch, const Tensor& hidden
) const {
  const int64_t T = batch.tokens_count(), C = config_.hidden;
  const auto alloc = [&](int64_t columns) {
    return exec.workspace->alloc(hidden.dtype, {T, columns});
  };
  const DeepseekLayer::Stream stream{.residual = alloc(C), .branch = alloc(C), .x = alloc(C)};
  Workspace::Mark mark(*exec.workspace);
  const Tensor pair = alloc(2 * C);
  (*embedding_)(exec, batch.tokens, stream.x);
  token_norm_(exec, stream.x, pair.slice(1, 0, C));
  hidden_norm_(exec, hidden, pair.slice(1, C, C));
  merge_(exec, pair, stream.residual);
  return stream;
}

Tensor DeepseekNextn::forward(
    Exec& exec, const layers::BatchView& batch, const Tensor& hidden, layers::KvCache& cache
) const {
  const int64_t C = config_.hidden, n = batch.logit_rows.dim(0);
  const Tensor g = exec.workspace->alloc(hidden.dtype, {n, C});
  Workspace::Mark mark(*exec.workspace);
  DeepseekLayer::Stream stream = merge(exec, batch, hidden);
  layer_(exec, stream, batch, cache.layer(config_.layers));
  const Tensor wanted = exec.workspace->alloc(hidden.dtype, {n, C});
  ops::row_gather(exec, {.x = stream.branch, .rows = batch.logit_rows, .y = g});
  ops::row_gather(exec, {.x = stream.residual, .rows = batch.logit_rows, .y = wanted});
  head_norm_.add(exec, g, wanted, g);
  probe(exec, "nextn.hidden", g);
  return g;
}

Tensor DeepseekNextn::forward_last(
    Exec& exec,
    const layers::BatchView& batch,
    const layers::BatchView& asking,
    const Tensor& hidden,
    layers::KvCache& cache
) const {
  const Tensor g = exec.workspace->alloc(hidden.dtype, {asking.rows(), config_.hidden});
  Workspace::Mark mark(*exec.workspace);
  DeepseekLayer::Stream stream = merge(exec, batch, hidden);
  layer_.last(exec, stream, batch, asking, cache.layer(config_.layers));
  if (g.dim(0) > 0) head_norm_.add(exec, stream.branch, stream.residual, g);
  probe(exec, "nextn.hidden", g);
  return g;
}

}  // namespace fathom::models
