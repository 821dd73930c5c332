// MlaExpanded: multi-head latent attention with keys and values of every head (specs deepseek_v3,
// sections 2.4 and 2.6): cheaper a pair than the absorbed form, but each cached position is
// expanded first. What a sequence had before the step is read in chunks of bounded size, whose
// attentions are merged by their log-sum-exps into that of the step's own tokens.
//
// Host only: chunks are cut by the lengths of the rows.
#pragma once

#include "fathom/layers/batch_view.h"
#include "fathom/weights/loader.h"

namespace fathom::layers {

struct MlaShape;

class MlaExpanded {
 public:
  // `both` [H * (nope + value), L] f32 in memory of loader.make(): kv_b_proj, which is taken over.
  void load(weights::Loader& loader, const MlaShape& shape, const Tensor& both);
  bool loaded() const { return kv_up_.defined(); }

  // Of rows [from, from + n), whose latents and rope keys are in `pages` [P, p, row]: q
  // [T, H, nope + R], rotated, to y [T, H, value].
  void operator()(
      Exec& exec,
      const BatchView& batch,
      int64_t from,
      int64_t n,
      const Tensor& pages,
      const Tensor& q,
      const Tensor& y
  ) const;

  // Bytes of workspace for a step of T tokens.
  static int64_t step_bytes(const MlaShape& shape, int64_t tokens);

 private:
  struct Span;
  void attend(Exec& exec, const Span& span, const Tensor& y, const Tensor& lse) const;

  int64_t heads_ = 0, latent_ = 0, nope_ = 0, rope_ = 0, value_ = 0;
  float scale_ = 0;
  Tensor kv_up_;  // [H * (nope + value), L], packed
};

}  // namespace fathom::layers
