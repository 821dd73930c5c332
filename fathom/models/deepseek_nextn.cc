#include "fathom/models/deepseek_nextn.h"

#include "fathom/ops/embed/row_gather.h"

namespace fathom::models {

void DeepseekNextn::load(
    weights::Loader& loader,
    const ModelConfig& config,
    const ModelOptions& options,
    const layers::Embedding& embedding,
    const Tensor& rope_table
) {
  config_ = config;
  embedding_ = &embedding;
  const weights::Scope name = weights::Scope("model") / "layers" / config.layers;
  const int64_t C = config.hidden;
  token_norm_.load(loader, name / "enorm", C, config.rms_eps);
  hidden_norm_.load(loader, name / "hnorm", C, config.rms_eps);
  merge_.load(loader, {{name / "eh_proj", C}}, 2 * C, false, weights::Precision::checkpoint);
  layer_.load(loader, config, options, config.layers, rope_table);
  head_norm_.load(loader, name / "shared_head" / "norm", C, config.rms_eps);
  loader.ignore(name / "embed_tokens" / "weight");
  loader.ignore(name / "shared_head" / "head" / "weight");
}

Tensor DeepseekNextn::forward(
    Exec& exec, const layers::BatchView& batch, const Tensor& hidden, layers::KvCache& cache
) const {
  const int64_t T = batch.tokens_count(), C = config_.hidden, n = batch.logit_rows.dim(0);
  const DType dtype = hidden.dtype;
  Workspace& workspace = *exec.workspace;
  const Tensor g = workspace.alloc(dtype, {n, C});
  Workspace::Mark mark(workspace);
  DeepseekLayer::Stream stream{
      .residual = workspace.alloc(dtype, {T, C}),
      .branch = workspace.alloc(dtype, {T, C}),
      .x = workspace.alloc(dtype, {T, C}),
  };
  const Tensor pair = workspace.alloc(dtype, {T, 2 * C});
  (*embedding_)(exec, batch.tokens, stream.x);
  token_norm_(exec, stream.x, pair.slice(1, 0, C));
  hidden_norm_(exec, hidden, pair.slice(1, C, C));
  merge_(exec, pair, stream.residual);
  layer_(exec, stream, batch, cache.layer(config_.layers));
  const Tensor wanted = workspace.alloc(dtype, {n, C});
  ops::row_gather(exec, {.x = stream.branch, .rows = batch.logit_rows, .y = g});
  ops::row_gather(exec, {.x = stream.residual, .rows = batch.logit_rows, .y = wanted});
  head_norm_.add(exec, g, wanted, g);
  probe(exec, "nextn.hidden", g);
  return g;
}

}  // namespace fathom::models
