// Loader: int8 and FP8 matrices with a scale per output channel, as they are in the checkpoint or
// made on load (ops/gemm/w8a8_gemm.h).
#include "fathom/ops/element.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/quant/fp8_rows.h"
#include "fathom/ops/quant/int8_rows.h"
#include "fathom/weights/loader.h"
#include "fathom/weights/loader_scales.h"

namespace fathom::weights {
namespace {

// Row n of `from` as codes; its scale.
template <class Scale, class Code>
float quantise_row(const Tensor& from, int64_t n, std::vector<float>& values, Code* codes) {
  ops::decode_row(from, n, values.data());
  float amax = 0;
  for (const float v : values) amax = std::max(amax, std::fabs(v));
  const Scale scale = Scale::of(amax);
  for (size_t k = 0; k < values.size(); ++k) codes[k] = scale.code(values[k]);
  return scale.scale;
}

}  // namespace

DType Loader::channel_codes() const {
  if (options_.channels == ChannelWeights::make_int8) return DType::i8;
  return options_.channels == ChannelWeights::make_fp8 ? DType::f8e4m3 : DType::f32;
}

// Packed rows, or whole tiles on a GPU.
bool Loader::has_channel_products(DType codes, int64_t columns) const {
  const DType placed =
      exec_.device.is_cuda() ? ops::tiled_dtype(codes, columns) : ops::packed_dtype(codes, columns);
  const bool whole = codes != DType::f8e4m3 || columns % ops::kFp8Block == 0;
  return placed != codes && whole && columns <= ops::kInt8MostK;
}

// As [N] or as a column [N, 1]; one for all rows, where the config says so, as [] or [1].
Tensor Loader::channel_scales(const Scope& name, int64_t rows) {
  const Scope scale_name(name.path() + "_scale");
  const WeightEntry* entry = map_.find(scale_name.path());
  const size_t rank = entry != nullptr ? entry->shape.size() : 1;
  const bool one = options_.fp8_scales == Fp8Scales::matrix;
  Tensor scale;
  if (one && rank == 0) {
    scale = scalar(scale_name);
  } else if (rank == 2) {
    scale = source(scale_name, {one ? 1 : rows, 1});
  } else {
    scale = source(scale_name, {one ? 1 : rows});
  }
  if (!scale.defined()) return {};
  if (!is_float(scale.dtype)) {
    note(fmt::format("tensor {} is {}; scales are floats", scale_name.path(), scale.describe()));
    return {};
  }
  const Tensor wide = make(DType::f32, {rows});
  if (!wide.defined()) return {};
  for (int64_t n = 0; n < rows; ++n) wide.as<float>()[n] = ops::load_element(scale, one ? 0 : n);
  return wide;
}

QTensor Loader::channel_source(const Scope& name, const Tensor& matrix) {
  const bool keep = options_.channels != ChannelWeights::dequantise &&
                    has_channel_products(matrix.dtype, matrix.dim(1));
  if (!keep) return {.data = dequantised(name, matrix)};
  const QTensor codes{.data = matrix, .scale = scale_of(name, matrix)};
  return codes.scale.defined() ? codes : QTensor{};
}

QTensor Loader::quantised_channels(const Tensor& matrix) {
  const int64_t N = matrix.dim(0), K = matrix.dim(1);
  const DType form = channel_codes();
  const QTensor to{.data = make(form, {N, K}), .scale = make(DType::f32, {N})};
  if (!to.data.defined() || !to.scale.defined()) return {};
  exec_.parallel_for(N, 16, [&](Range rows) {
    std::vector<float> values(static_cast<size_t>(K));
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      const Tensor row = to.data.row(n);
      to.scale.as<float>()[n] =
          form == DType::i8 ? quantise_row<ops::Int8Scale>(matrix, n, values, row.as<int8_t>())
                            : quantise_row<ops::Fp8RowScale>(matrix, n, values, row.as<uint8_t>());
    }
  });
  release(matrix);
  return to;
}

}  // namespace fathom::weights
