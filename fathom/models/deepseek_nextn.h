// DeepseekNextn: the multi-token prediction module, one more layer that predicts the token after
// the next from the hidden state of a position and the next token (DeepSeek-V3, section 2.2; specs
// deepseek_v3, section 7).
//
//   e  = embed(t_{p+1})                                          the target's embedding
//   h' = W_eh [ norm(e; enorm), norm(h_p; hnorm) ]               embedding first
//   g  = norm(layer(h'); shared_head.norm)                       at position p, own keys
//   logits of t_{p+2} = the target's head of g
//
// Where the layer's products are FP8, W_eh and a copy of the head are rounded to FP8 as well: a
// draft reads half as much of them, and no output depends on what is drafted.
#pragma once

#include "fathom/layers/embedding.h"
#include "fathom/models/deepseek_layer.h"

namespace fathom::models {

class DeepseekNextn {
 public:
  // `embedding` and `head` are the target's, `embedding` outlives this; the checkpoint's copies of
  // both are left aside.
  void load(
      weights::Loader& loader,
      const ModelConfig& config,
      const ModelOptions& options,
      const layers::Embedding& embedding,
      const layers::LmHead& head,
      const Tensor& rope_table
  );

  // batch.tokens [T] are the next tokens t_{p+1} and hidden [T, C] the states h_p of positions
  // batch.positions: the target's after its final norm, or g of the step before when the module
  // drafts on. Returns g of batch.logit_rows, [n, C] in the workspace, for logits().
  Tensor forward(
      Exec& exec, const layers::BatchView& batch, const Tensor& hidden, layers::KvCache& cache
  ) const;
  // The same where those tokens are the last ones of their rows; `asking` holds them alone, each in
  // a row of its own. All others leave their row in the cache, and cost no more than that takes.
  Tensor forward_last(
      Exec& exec,
      const layers::BatchView& batch,
      const layers::BatchView& asking,
      const Tensor& hidden,
      layers::KvCache& cache
  ) const;

  // g [n, C] -> f32 [n, V] in the workspace, to draft from.
  Tensor logits(Exec& exec, const Tensor& g) const { return head_(exec, g); }

 private:
  DeepseekLayer::Stream merge(Exec& exec, const layers::BatchView& batch, const Tensor& hidden)
      const;

  ModelConfig config_;
  const layers::Embedding* embedding_ = nullptr;
  layers::RmsNorm token_norm_;
  layers::RmsNorm hidden_norm_;
  layers::Linear merge_;
  DeepseekLayer layer_;
  layers::RmsNorm head_norm_;
  layers::LmHead head_;
};

}  // namespace fathom::models
