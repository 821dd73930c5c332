// Attention: causal self-attention with grouped queries, rotary positions and a paged cache
// (Llama, Qwen; models_other.md sections 2 and 4).
#pragma once

#include "fathom/layers/batch_view.h"
#include "fathom/layers/kv_cache.h"
#include "fathom/layers/linear.h"
#include "fathom/ops/rope/rope.h"

namespace fathom::layers {

struct AttentionShape {
  int64_t width = 0;     // C
  int64_t heads = 0;     // H
  int64_t kv_heads = 0;  // Hkv
  int64_t head_dim = 0;  // D
  bool qkv_bias = false;
  bool output_bias = false;
  bool qk_norm = false;
  double norm_eps = 0;
  ops::RopePairs rope_pairs = ops::RopePairs::halves;
};

class Attention {
 public:
  // Takes q_proj, k_proj, v_proj, o_proj (and q_norm, k_norm) under `name`. `rope_table` [S, D] as
  // ops::Rope wants it, shared by all layers.
  void load(
      weights::Loader& loader,
      const weights::Scope& name,
      const AttentionShape& shape,
      const Tensor& rope_table
  );

  // x [T, C] behind its norm -> y [T, C]; y may be x. Appends the step's keys and values to the
  // layer's pages.
  void operator()(
      Exec& exec, const NormInput& x, const BatchView& batch, const LayerKv& kv, const Tensor& y
  ) const;

 private:
  void attend(
      Exec& exec, const BatchView& batch, const LayerKv& kv, const Tensor& q, const Tensor& y
  ) const;

  AttentionShape shape_;
  Linear qkv_;
  Linear output_;
  Tensor q_norm_;  // f32 [D]; undefined: none
  Tensor k_norm_;
  Tensor rope_table_;
};

}  // namespace fathom::layers
