#include "fathom/layers/linear.h"

#include "fathom/ops/gemm/bf16_gemm.h"
#include "fathom/ops/gemm/block_quants.h"
#include "fathom/ops/gemm/gguf_gemm.h"
#include "fathom/ops/gemm/pack_weight.h"

namespace fathom::layers {

void multiply(
    Exec& exec, const Tensor& x, const QTensor& weight, const Tensor& bias, const Tensor& y
) {
  const DType dtype = weight.data.dtype;
  const DType plain = ops::is_packed(dtype) ? ops::unpacked_dtype(dtype) : dtype;
  if (ops::is_block_quant(plain)) {
    ops::gguf_gemm(exec, {.x = x, .weight = weight.data, .bias = bias, .y = y});
  } else {
    ops::bf16_gemm(exec, {.x = x, .weight = weight.data, .bias = bias, .y = y});
  }
}

void Linear::load(
    weights::Loader& loader, const std::vector<weights::Part>& parts, int64_t columns, bool bias
) {
  std::vector<weights::Part> matrices;
  for (const weights::Part& part : parts) {
    matrices.push_back({part.name / "weight", part.rows});
    part_rows_.push_back(part.rows);
    rows_ += part.rows;
  }
  weights_ = loader.take_parts(matrices, columns);
  if (weights_.size() == 1) part_rows_ = {rows_};
  if (!bias) return;
  std::vector<weights::Part> vectors;
  for (const weights::Part& part : parts) vectors.push_back({part.name / "bias", part.rows});
  bias_ = loader.take_vectors(vectors);
}

void Linear::operator()(Exec& exec, const Tensor& x, const Tensor& y) const {
  int64_t from = 0;
  for (size_t i = 0; i < weights_.size(); ++i) {
    const int64_t n = part_rows_[i];
    const Tensor bias = bias_.defined() ? bias_.slice(0, from, n) : Tensor{};
    multiply(exec, x, weights_[i], bias, y.slice(1, from, n));
    from += n;
  }
}

}  // namespace fathom::layers
