#include "fathom/layers/embedding.h"

#include "fathom/layers/linear.h"
#include "fathom/ops/embed/embedding.h"

namespace fathom::layers {

void Embedding::load(
    weights::Loader& loader, const weights::Scope& name, int64_t vocab, int64_t width, bool tied
) {
  const weights::Scope matrix = name / "weight";
  weight_ = tied ? loader.take(matrix, {vocab, width})
                 : QTensor{.data = loader.take_rows(matrix, {vocab, width})};
}

void Embedding::operator()(Exec& exec, const Tensor& tokens, const Tensor& y) const {
  Workspace::Mark mark(*exec.workspace);
  ops::embedding(exec, {.tokens = tokens, .weight = weight_.data, .y = y});
}

void LmHead::load(
    weights::Loader& loader, const weights::Scope& name, int64_t vocab, int64_t width
) {
  weight_ = loader.take(name / "weight", {vocab, width});
  vocab_ = vocab;
}

void LmHead::load_rounded(
    weights::Loader& loader, const weights::Scope& name, int64_t vocab, int64_t width
) {
  const QTensor rounded = loader.take_rounded(name / "weight", vocab, width);
  if (!rounded.data.defined()) return;
  weight_ = rounded;
  vocab_ = vocab;
}

void LmHead::tie(const Embedding& embedding, int64_t vocab) {
  weight_ = embedding.weight();
  vocab_ = vocab;
}

Tensor LmHead::operator()(Exec& exec, const Tensor& hidden) const {
  const Tensor logits = exec.workspace->alloc(DType::f32, {hidden.dim(0), vocab_});
  multiply(exec, hidden, weight_, {}, logits);
  return logits;
}

}  // namespace fathom::layers
