#include "fathom/layers/linear.h"

#include "fathom/ops/act/silu_mul.h"
#include "fathom/ops/gemm/bf16_gemm.h"
#include "fathom/ops/gemm/block_quants.h"
#include "fathom/ops/gemm/fp8_block_gemm.h"
#include "fathom/ops/gemm/gguf_gemm.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/w8a8_gemm.h"
#include "fathom/ops/norm/rms_norm_quant.h"
#include "fathom/ops/quant/fused_quant.h"

namespace fathom::layers {
namespace {

using Prologue = ops::FusedQuant::Prologue;

// FP8 with scales of blocks.
bool is_fp8(const QTensor& weight) {
  return weight.scale.defined() && !ops::has_channel_scales(weight);
}

// x as FP8 products take it, in the workspace.
struct Quantised {
  Quantised(Exec& exec, int64_t M, int64_t K)
      : codes(exec.workspace->alloc(DType::f8e4m3, {M, K})),
        padded(exec.workspace->alloc(DType::f32, {K / 128, (M + 3) / 4 * 4})),
        scale(padded.slice(1, 0, M)) {}
  Tensor codes, padded, scale;
};

void multiply_codes(Exec& exec, const Quantised& x, const QTensor& weight, const Tensor& y) {
  const bool direct = y.contiguous() || exec.device.is_cuda();
  const int64_t M = y.dim(0);
  const Tensor out = direct ? y : exec.workspace->alloc(y.dtype, {M, y.dim(1)});
  ops::fp8_block_gemm(exec, {.x = x.codes, .x_scale = x.padded, .w = weight, .y = out});
  if (direct) return;
  for (int64_t m = 0; m < M; ++m)
    std::memcpy(y.row(m).data, out.row(m).data, static_cast<size_t>(out.row(m).bytes()));
}

// On a GPU a product may quantise x for itself.
bool quantises_itself(
    const Exec& exec, const Tensor& x, const QTensor& weight, const Tensor& y, bool ue8m0
) {
  return exec.device.is_cuda() && x.dtype == DType::bf16 &&
         ops::quantises_itself(exec, {.x = x, .w = weight, .y = y, .ue8m0 = ue8m0});
}

// x [M, K], or [M, 2 K] with a prologue.
void multiply_fp8(
    Exec& exec,
    const Tensor& x,
    Prologue prologue,
    const QTensor& weight,
    const Tensor& y,
    bool ue8m0
) {
  if (prologue == Prologue::none && quantises_itself(exec, x, weight, y, ue8m0))
    return ops::fp8_block_gemm(exec, {.x = x, .w = weight, .y = y, .ue8m0 = ue8m0});
  Workspace::Mark mark(*exec.workspace);
  const Quantised quantised(exec, x.dim(0), weight.data.dim(1));
  ops::fused_quant(
      exec,
      {.x = x, .prologue = prologue, .ue8m0 = ue8m0, .y = quantised.codes, .scale = quantised.scale}
  );
  multiply_codes(exec, quantised, weight, y);
}

}  // namespace

void multiply(
    Exec& exec,
    const Tensor& x,
    const QTensor& weight,
    const Tensor& bias,
    const Tensor& y,
    bool ue8m0
) {
  const DType dtype = weight.data.dtype;
  const DType plain = ops::is_packed(dtype) ? ops::unpacked_dtype(dtype) : dtype;
  if (ops::has_channel_scales(weight)) {
    ops::w8a8_gemm(exec, {.x = x, .w = weight, .bias = bias, .y = y});
  } else if (is_fp8(weight)) {
    CHECK(!bias.defined(), "FP8 products have no bias");
    multiply_fp8(exec, x, Prologue::none, weight, y, ue8m0);
  } else if (ops::is_block_quant(plain)) {
    ops::gguf_gemm(exec, {.x = x, .weight = weight.data, .bias = bias, .y = y});
  } else {
    ops::bf16_gemm(exec, {.x = x, .weight = weight.data, .bias = bias, .y = y});
  }
}

void Linear::load(
    weights::Loader& loader,
    const std::vector<weights::Part>& parts,
    int64_t columns,
    bool bias,
    weights::Precision precision,
    bool joined
) {
  std::vector<weights::Part> matrices;
  for (const weights::Part& part : parts) {
    matrices.push_back({part.name / "weight", part.rows});
    rows_ += part.rows;
  }
  ue8m0_ = loader.ue8m0();
  if (bias && precision == weights::Precision::products) precision = weights::Precision::biased;
  const std::vector<QTensor> taken = loader.take_parts(matrices, columns, precision, joined);
  if (taken.size() == 1) {
    weight_ = taken.front();
  } else {
    for (size_t i = 0; i < taken.size(); ++i) parts_.push_back({taken[i], parts[i].rows});
  }
  if (!bias) return;
  std::vector<weights::Part> vectors;
  vectors.reserve(parts.size());
  for (const weights::Part& part : parts) vectors.push_back({part.name / "bias", part.rows});
  bias_ = loader.take_vectors(vectors);
}

void Linear::load_rounded(
    weights::Loader& loader, const weights::Scope& name, int64_t rows, int64_t columns
) {
  weight_ = loader.take_rounded(name / "weight", rows, columns);
  if (!weight_.data.defined())
    return load(loader, {{name, rows}}, columns, false, weights::Precision::checkpoint);
  rows_ = rows;
  ue8m0_ = loader.ue8m0();
}

void Linear::operator()(Exec& exec, const Tensor& x, const Tensor& y) const {
  if (parts_.empty()) return multiply(exec, x, weight_, bias_, y, ue8m0_);
  int64_t from = 0;
  for (const Part& part : parts_) {
    const Tensor bias = bias_.defined() ? bias_.slice(0, from, part.rows) : Tensor{};
    multiply(exec, x, part.weight, bias, y.slice(1, from, part.rows), ue8m0_);
    from += part.rows;
  }
}

void Linear::behind_norm(Exec& exec, const NormInput& in, const Tensor& y) const {
  if (!is_fp8(weight_) || quantises_itself(exec, in.normed, weight_, y, ue8m0_))
    return (*this)(exec, in.values(exec), y);
  Workspace::Mark mark(*exec.workspace);
  const Quantised quantised(exec, in.x.dim(0), in.x.dim(1));
  ops::rms_norm_quant(
      exec,
      {.x = in.x,
       .weight = in.norm->weight(),
       .eps = in.norm->eps(),
       .residual = in.residual,
       .ue8m0 = ue8m0_,
       .y = quantised.codes,
       .scale = quantised.scale}
  );
  multiply_codes(exec, quantised, weight_, y);
}

void Linear::behind_swiglu(Exec& exec, const Tensor& gate_up, const Tensor& y) const {
  // On a GPU a product may quantise for itself.
  if (is_fp8(weight_) && exec.device.is_cpu())
    return multiply_fp8(exec, gate_up, Prologue::swiglu, weight_, y, ue8m0_);
  Workspace::Mark mark(*exec.workspace);
  const int64_t M = gate_up.dim(0), K = gate_up.dim(1) / 2;
  const Tensor x = exec.workspace->alloc(gate_up.dtype, {M, K});
  ops::silu_mul(exec, {.gate = gate_up.slice(1, 0, K), .up = gate_up.slice(1, K, K), .y = x});
  (*this)(exec, x, y);
}

}  // namespace fathom::layers
