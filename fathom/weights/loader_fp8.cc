// Loader: FP8 matrices, as they are in the checkpoint or made on load (specs deepseek_v3, sections
// 6.1 and 6.3).
#include "fathom/ops/element.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/weights/loader.h"
#include "fathom/weights/loader_scales.h"

namespace fathom::weights {
namespace {

using ops::kFp8Block;

constexpr float kWeightEps = 1e-4f;  // least magnitude of a block that is quantised

// One 128x128 block of `from`, which may stand at an edge.
void quantise_block(const Tensor& from, int64_t n0, int64_t k0, bool ue8m0, const QTensor& to) {
  const int64_t n1 = std::min(n0 + kFp8Block, from.dim(0));
  const int64_t k1 = std::min(k0 + kFp8Block, from.dim(1));
  float amax = kWeightEps;
  for (int64_t n = n0; n < n1; ++n) {
    const Tensor row = from.row(n);
    for (int64_t k = k0; k < k1; ++k) amax = std::max(amax, std::fabs(ops::load_element(row, k)));
  }
  const float scale = ops::fp8_scale(amax, ue8m0);
  to.scale.row(n0 / kFp8Block).as<float>()[k0 / kFp8Block] = scale;
  for (int64_t n = n0; n < n1; ++n) {
    const Tensor row = from.row(n);
    uint8_t* codes = to.data.row(n).as<uint8_t>();
    for (int64_t k = k0; k < k1; ++k) codes[k] = float_to_f8e4m3(ops::load_element(row, k) / scale);
  }
}

}  // namespace

Tensor Loader::scale_of(const Scope& name, const Tensor& matrix) {
  if (has_channel_codes(matrix.dtype)) return channel_scales(name, matrix.dim(0));
  if (matrix.dtype != DType::f8e4m3) return {};
  const Scope scale_name(name.path() + "_scale_inv");
  const int64_t rows = ops::fp8_blocks(matrix.dim(0)), columns = ops::fp8_blocks(matrix.dim(1));
  const Tensor scale = source(scale_name, {rows, columns});
  if (scale.defined() && scale.dtype != DType::f32) {
    note(fmt::format("tensor {} is {}; scales are f32", scale_name.path(), scale.describe()));
    return {};
  }
  return scale;
}

Tensor Loader::dequantised(const Scope& name, const Tensor& matrix) {
  const Tensor scale = scale_of(name, matrix);
  return scale.defined() ? values_of({.data = matrix, .scale = scale}) : Tensor{};
}

Tensor Loader::values_of(const QTensor& codes) {
  const int64_t N = codes.data.dim(0), K = codes.data.dim(1);
  const Tensor wide = make(DType::f32, {N, K});
  if (!wide.defined()) return {};
  exec_.parallel_for(N, 1, [&](Range rows) {
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      float* to = wide.row(n).as<float>();
      const Tensor from = codes.data.row(n);
      for (int64_t k = 0; k < K; ++k)
        to[k] = ops::load_element(from, k) * element_scale(codes, n, k);
    }
  });
  return wide;
}

QTensor Loader::take_codes(const Scope& name, int64_t rows, int64_t columns) {
  const bool blocks = rows % kFp8Block == 0 && columns % kFp8Block == 0;
  if (!blocks || exec_.device.is_cuda() || options_.fp8 == Fp8Weights::dequantise) return {};
  if (options_.fp8_scales != Fp8Scales::blocks) return {};
  const WeightEntry* entry = map_.find(name.path());
  const bool made = entry != nullptr && is_float(entry->dtype) && options_.fp8 == Fp8Weights::make;
  const bool is_fp8 = dummy_ ? dummy_->fp8 : entry != nullptr && entry->dtype == DType::f8e4m3;
  if (!is_fp8 && !made) return {};
  if (dummy_) return generated_fp8({name, rows}, columns);
  const Tensor t = source(name, {rows, columns});
  if (!t.defined()) return {};
  report(t);
  if (made) return quantised(t);
  const QTensor codes{.data = t, .scale = scale_of(name, t)};
  return codes.scale.defined() ? codes : QTensor{};
}

QTensor Loader::take_rounded(const Scope& name, int64_t rows, int64_t columns) {
  if (exec_.device.is_cuda() || options_.fp8 == Fp8Weights::dequantise || columns % kFp8Block != 0)
    return {};
  const Tensor t = source(name, {rows, columns});
  if (!t.defined() || !is_float(t.dtype)) return {};
  const QTensor codes = quantised(t);
  if (!codes.data.defined()) return {};
  return {.data = place(codes.data), .scale = codes.scale};
}

QTensor Loader::quantised(const Tensor& matrix) {
  const int64_t N = matrix.dim(0), K = matrix.dim(1), columns = ops::fp8_blocks(K);
  const QTensor to{
      .data = make(DType::f8e4m3, {N, K}),
      .scale = make(DType::f32, {ops::fp8_blocks(N), columns}),
  };
  if (!to.data.defined() || !to.scale.defined()) return {};
  exec_.parallel_for(ops::fp8_blocks(N) * columns, 1, [&](Range blocks) {
    for (int64_t i = blocks.begin; i < blocks.end; ++i) {
      const int64_t n0 = i / columns * kFp8Block, k0 = i % columns * kFp8Block;
      quantise_block(matrix, n0, k0, options_.ue8m0, to);
    }
  });
  release(matrix);
  return to;
}

QTensor Loader::generated_fp8(const Part& part, int64_t columns) {
  taken_.insert(part.name.path());
  const QTensor t{
      .data = make(DType::f8e4m3, {part.rows, columns}),
      .scale = make(DType::f32, {ops::fp8_blocks(part.rows), ops::fp8_blocks(columns)}),
  };
  if (!t.data.defined() || !t.scale.defined()) return {};
  fill_dummy_codes(exec_, *dummy_, part.name.path(), t.data);
  std::fill_n(t.scale.as<float>(), t.scale.elements(), kDummyScale);
  return t;
}

}  // namespace fathom::weights
