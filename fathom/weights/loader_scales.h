// Scales of FP8 and int8 matrices, by blocks or rows, whole and in parts.
#pragma once

#include <cstring>

#include "fathom/core/tensor.h"
#include "fathom/ops/gemm/w8a8_gemm.h"
#include "fathom/ops/quant/fp8_blocks.h"

namespace fathom::weights {

inline bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

// Types whose matrices come with scales.
inline bool is_coded(DType dtype) {
  return dtype == DType::f8e4m3 || dtype == DType::i8;
}

// Rows of a matrix that share a scale.
inline int64_t rows_of_scale(const QTensor& matrix) {
  return ops::has_channel_scales(matrix) ? 1 : ops::kFp8Block;
}

// The scale of element (n, k).
inline float element_scale(const QTensor& matrix, int64_t n, int64_t k) {
  if (ops::has_channel_scales(matrix)) return matrix.scale.as<float>()[n];
  return ops::block_scale(matrix.scale, n, k);
}

// A part's scales to where row `from` of the whole has its own; nothing where either has none.
inline void copy_scale(const QTensor& part, int64_t from, const Tensor& all) {
  if (!part.scale.defined() || !all.defined()) return;
  const Tensor to = all.slice(0, from / rows_of_scale(part), part.scale.dim(0));
  std::memcpy(to.data, part.scale.data, static_cast<size_t>(part.scale.bytes()));
}

}  // namespace fathom::weights
