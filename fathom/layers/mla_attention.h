// MlaAttention: multi-head latent attention. The cache holds one latent row and one rotated key
// part per token, shared by all heads. In the absorbed form W_UK and W_UV, the two halves of
// kv_b_proj, are applied to the query and to the attended latent, so that no key or value is ever
// expanded (DeepSeek-V2, section 2.1; specs deepseek_v3, sections 2.1 and 2.5); pieces of prompts
// may take the expanded form (mla_expanded.h) instead, by the rule of section 2.7.
//
// In the absorbed form a token's output depends on its own row, its position and the cache alone:
// bit by bit the same alone, in a batch, in chunks, after a prefix hit or a preemption. The two
// forms agree but for rounding.
#pragma once

#include "fathom/layers/batch_view.h"
#include "fathom/layers/kv_cache.h"
#include "fathom/layers/linear.h"
#include "fathom/layers/mla_expanded.h"
#include "fathom/layers/norm.h"

namespace fathom::layers {

// Which form attends. Expanded prompts: a step's pieces of prompts, when the positions cached
// before them are none, or at least `threshold` in sum.
struct MlaForms {
  bool expanded_prompts = false;  // feature chunked_prefix_mha
  int64_t threshold = 8192;
  // Feature mla_absorb; false: all but drafted trees is expanded, whatever is cached.
  bool absorbed_decode = true;
  bool joined_down = true;  // feature fused_qkv_a: q_a and kv_a are one product
  bool expands() const { return expanded_prompts || !absorbed_decode; }
};

struct MlaShape {
  int64_t width = 0;       // C
  int64_t heads = 0;       // H
  int64_t query_rank = 0;  // Q; 0: queries come from the hidden state at once
  int64_t latent = 0;      // L
  int64_t nope_dim = 0;
  int64_t rope_dim = 0;  // R
  int64_t value_dim = 0;
  double norm_eps = 0;
  float scale = 0;  // of the scores, YaRN's temperature included
  MlaForms forms;
};

class MlaAttention {
 public:
  // Takes q_a_proj, q_a_layernorm, q_b_proj (or q_proj), kv_a_proj_with_mqa, kv_a_layernorm,
  // kv_b_proj and o_proj under `name`. `rope_table` [S, R] as ops::Rope wants it.
  void load(
      weights::Loader& loader,
      const weights::Scope& name,
      const MlaShape& shape,
      const Tensor& rope_table
  );

  // W_UK and W_UV are kept as FP8 codes.
  bool in_codes() const { return key_up_.scale.defined(); }

  // x [T, C] behind its norm -> y [T, C]; y may be x. Appends the step's rows to the layer's pages.
  void operator()(
      Exec& exec, const NormInput& x, const BatchView& batch, const LayerKv& kv, const Tensor& y
  ) const;

  // As above where only tokens asking.logit_rows of x, each the last one of its row, want an
  // output: y [n, C], n may be 0. `asking` holds those n tokens alone, each in a row of its own.
  // The absorbed form; the other tokens' queries are not computed.
  void last_tokens(
      Exec& exec,
      const NormInput& x,
      const BatchView& batch,
      const BatchView& asking,
      const LayerKv& kv,
      const Tensor& y
  ) const;

 private:
  Tensor queries(Exec& exec, const Tensor& low) const;
  void store(
      Exec& exec,
      const BatchView& batch,
      const Tensor& down,
      const Tensor& q_rope,
      const Tensor& pages
  ) const;
  // The first so many rows take the absorbed form.
  int64_t absorbed_rows(const Exec& exec, const BatchView& batch) const;
  // Queries q [T, H, nope + R] of the first n rows to values [T, H, value].
  void attend_absorbed(
      Exec& exec,
      const BatchView& batch,
      int64_t n,
      const Tensor& pages,
      const Tensor& q,
      const Tensor& values
  ) const;
  void decode_rows(
      Exec& exec,
      const BatchView& batch,
      int64_t n,
      const Tensor& pages,
      const Tensor& q_latent,
      const Tensor& q_rope,
      const Tensor& out
  ) const;
  void load_absorbed(weights::Loader& loader, const weights::Scope& kv_b);
  void load_values(weights::Loader& loader, const Tensor& both);
  void load_codes(weights::Loader& loader, const QTensor& both);

  MlaShape shape_;
  Linear down_;  // q_a (or q), then kv_a: one product over x
  RmsNorm q_norm_;
  Linear q_up_;  // q_b; unused without query_rank
  RmsNorm kv_norm_;
  QTensor key_up_;    // [H * L, nope_dim], packed: W_UK, transposed for each head
  QTensor value_up_;  // [H * value_dim, L], packed: W_UV
  MlaExpanded expanded_;
  Linear output_;
  Tensor rope_table_;
};

}  // namespace fathom::layers
