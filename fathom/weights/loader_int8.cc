// Loader: int8 matrices with a scale per output channel, as they are in the checkpoint or made on
// load (ops/gemm/w8a8_gemm.h).
#include "fathom/ops/element.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/quant/int8_rows.h"
#include "fathom/weights/loader.h"
#include "fathom/weights/loader_scales.h"

namespace fathom::weights {
namespace {

// Row n of `from` as codes; its scale.
float quantise_row(const Tensor& from, int64_t n, std::vector<float>& values, int8_t* codes) {
  ops::decode_row(from, n, values.data());
  float amax = 0;
  for (const float v : values) amax = std::max(amax, std::fabs(v));
  const ops::Int8Scale scale = ops::Int8Scale::of(amax);
  for (size_t k = 0; k < values.size(); ++k) codes[k] = scale.code(values[k]);
  return scale.scale;
}

}  // namespace

// Packed rows, or whole tiles on a GPU.
bool Loader::has_int8_products(int64_t columns) const {
  const DType placed = exec_.device.is_cuda() ? ops::tiled_dtype(DType::i8, columns)
                                              : ops::packed_dtype(DType::i8, columns);
  return placed != DType::i8 && columns <= ops::kInt8MostK;
}

// As [N] or as a column [N, 1].
Tensor Loader::channel_scales(const Scope& name, int64_t rows) {
  const Scope scale_name(name.path() + "_scale");
  const WeightEntry* entry = map_.find(scale_name.path());
  const bool column = entry != nullptr && entry->shape.size() == 2;
  const Tensor scale = column ? source(scale_name, {rows, 1}) : source(scale_name, {rows});
  if (!scale.defined()) return {};
  if (!is_float(scale.dtype)) {
    note(fmt::format("tensor {} is {}; scales are floats", scale_name.path(), scale.describe()));
    return {};
  }
  const Tensor wide = make(DType::f32, {rows});
  if (!wide.defined()) return {};
  for (int64_t n = 0; n < rows; ++n) wide.as<float>()[n] = ops::load_element(scale, n);
  return wide;
}

QTensor Loader::int8_source(const Scope& name, const Tensor& matrix) {
  const bool keep = options_.int8 != Int8Weights::dequantise && has_int8_products(matrix.dim(1));
  if (!keep) return {.data = dequantised(name, matrix)};
  const QTensor codes{.data = matrix, .scale = scale_of(name, matrix)};
  return codes.scale.defined() ? codes : QTensor{};
}

QTensor Loader::quantised_channels(const Tensor& matrix) {
  const int64_t N = matrix.dim(0), K = matrix.dim(1);
  const QTensor to{.data = make(DType::i8, {N, K}), .scale = make(DType::f32, {N})};
  if (!to.data.defined() || !to.scale.defined()) return {};
  exec_.parallel_for(N, 16, [&](Range rows) {
    std::vector<float> values(static_cast<size_t>(K));
    for (int64_t n = rows.begin; n < rows.end; ++n)
      to.scale.as<float>()[n] = quantise_row(matrix, n, values, to.data.row(n).as<int8_t>());
  });
  release(matrix);
  return to;
}

}  // namespace fathom::weights
