// Embedding and LmHead: from token ids to the residual stream, and from hidden states to logits. A
// model that ties them keeps one matrix.
#pragma once

#include "fathom/core/exec.h"
#include "fathom/weights/loader.h"

namespace fathom::layers {

class Embedding {
 public:
  // Takes <name>.weight [vocab, width]: packed for products when the head is tied to it, else as it
  // lies in the file.
  void load(
      weights::Loader& loader, const weights::Scope& name, int64_t vocab, int64_t width, bool tied
  );

  const QTensor& weight() const { return weight_; }
  // tokens [T] i32 -> y [T, C].
  void operator()(Exec& exec, const Tensor& tokens, const Tensor& y) const;

 private:
  QTensor weight_;
};

class LmHead {
 public:
  // Takes <name>.weight [vocab, width].
  void load(weights::Loader& loader, const weights::Scope& name, int64_t vocab, int64_t width);
  // The same for drafts, which need no exact logits: as FP8 where the loader can, else what was
  // there stays.
  void load_rounded(
      weights::Loader& loader, const weights::Scope& name, int64_t vocab, int64_t width
  );
  // Shares the embedding's matrix.
  void tie(const Embedding& embedding, int64_t vocab);

  // hidden [n, C] -> f32 [n, V] in the workspace.
  Tensor operator()(Exec& exec, const Tensor& hidden) const;

 private:
  QTensor weight_;
  int64_t vocab_ = 0;
};

}  // namespace fathom::layers
