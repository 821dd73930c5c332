// DeepseekLayer: one block of DeepSeek V2, V3 and R1, of the model's own and of its MTP module.
#pragma once

#include <variant>

#include "fathom/layers/mla_attention.h"
#include "fathom/layers/mlp.h"
#include "fathom/layers/moe.h"
#include "fathom/layers/norm.h"
#include "fathom/models/model.h"

namespace fathom::models {

struct DeepseekLayer {
  layers::RmsNorm attention_norm;
  layers::MlaAttention attention;
  layers::RmsNorm mlp_norm;
  std::variant<layers::Mlp, layers::Moe> mlp;

  // Layer `index` of the checkpoint; those behind the model's own (MTP) hold experts.
  void load(
      weights::Loader& loader,
      const ModelConfig& config,
      const ModelOptions& options,
      int64_t index,
      const Tensor& rope_table
  );

  // residual [T, C] is the stream up to this layer, less `branch` [T, C], the output of the layer
  // before (`first`: none yet). Leaves the stream so for the layer behind it. x [T, C] is scratch.
  struct Stream {
    Tensor residual;
    Tensor branch;
    Tensor x;
    bool first = true;
  };
  void operator()(
      Exec& exec, Stream& stream, const layers::BatchView& batch, const layers::LayerKv& kv
  ) const;
  // Its two halves: the attention; the MLP, of the rows that are left in `stream`, any of T.
  void attend(Exec& exec, Stream& stream, const layers::BatchView& batch, const layers::LayerKv& kv)
      const;
  void finish(Exec& exec, Stream& stream) const;
  // As a last layer, of which only tokens asking.logit_rows are wanted (MlaAttention::last_tokens):
  // leaves their rows alone in `stream`, as [n, C] of the same memory.
  void last(
      Exec& exec,
      Stream& stream,
      const layers::BatchView& batch,
      const layers::BatchView& asking,
      const layers::LayerKv& kv
  ) const;

 private:
  // Of the attention; taking it makes the stream whole.
  layers::NormInput input(Stream& stream) const;
};

// Workspace that one layer takes for a step within the limits.
int64_t deepseek_layer_bytes(
    const ModelConfig& config, const ModelOptions& options, const StepLimits& limits
);

}  // namespace fathom::models
