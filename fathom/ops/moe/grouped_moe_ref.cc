#include <cmath>
#include <cstring>
#include <vector>

#include "fathom/ops/element.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/moe/grouped_moe_rows.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/fp8_rows.h"
#include "fathom/ops/quant/int8_rows.h"

namespace fathom::ops {
namespace {

// Rounds each group of 128 to e4m3 and back, as a product with the group's scale would see it.
void quantise(std::vector<float>& v, bool ue8m0) {
  const int64_t n = static_cast<int64_t>(v.size());
  for (int64_t begin = 0; begin < n; begin += kFp8Block) {
    float* group = v.data() + begin;
    const int64_t count = std::min(kFp8Block, n - begin);
    const float scale = fp8_scale(fp8_amax(group, count, 1e-10f), ue8m0);
    for (int64_t i = 0; i < count; ++i)
      group[i] = f8e4m3_to_float(float_to_f8e4m3(group[i] / scale)) * scale;
  }
}

// The same of a whole row.
template <class Scale>
void quantise_row(std::vector<float>& v, auto value_of) {
  float amax = 0;
  for (const float x : v) amax = std::max(amax, std::fabs(x));
  const Scale scale = Scale::of(amax);
  for (float& x : v) x = value_of(scale.code(x)) * scale.scale;
}

bool is_fp8(DType form) {
  return form == DType::f8e4m3 || form == DType::f8e4m3x32 || form == DType::f8e4m3x64;
}

void quantise(const GroupedMoe& args, std::vector<float>& v) {
  if (!args.quantise_activations) return;
  if (!has_channel_scales(args.gate_up)) return quantise(v, args.ue8m0);
  if (is_fp8(args.gate_up.data.dtype)) return quantise_row<Fp8RowScale>(v, f8e4m3_to_float);
  quantise_row<Int8Scale>(v, [](int8_t code) { return static_cast<float>(code); });
}

// Element k of a row n of one expert's tiled weight.
float tile_element(const Tensor& weight, int64_t n, int64_t k) {
  const int64_t K = weight.dim(1);
  const auto* bytes = static_cast<const uint8_t*>(weight.data);
  if (weight.dtype == DType::i8x64) return static_cast<int8_t>(bytes[tile_offset(n, k, K)]);
  if (weight.dtype == DType::f8e4m3x64) return f8e4m3_to_float(bytes[tile_offset(n, k, K)]);
  uint16_t bits;
  std::memcpy(&bits, bytes + tile_offset(n, 2 * k, 2 * K), sizeof(bits));
  return bf16_to_float(bits);
}

// Row n of one expert's weight, in any form.
void read_row(const Tensor& weight, int64_t n, std::vector<float>& values) {
  const DType dtype = weight.dtype;
  if (dtype != DType::f8e4m3x64 && dtype != DType::bf16x64 && dtype != DType::i8x64)
    return decode_row(weight, n, values.data());
  for (size_t k = 0; k < values.size(); ++k)
    values[k] = tile_element(weight, n, static_cast<int64_t>(k));
}

// The scale of element (n, k) of one expert's weight.
float scale_at(const Tensor& scale, int64_t n, int64_t k) {
  return scale.rank == 1 ? scale.as<float>()[n] : block_scale(scale, n, k);
}

// y = v W^T of one expert; weight [N, K], scale [.., ..], [N] or undefined.
std::vector<float> product(
    const std::vector<float>& v, const Tensor& weight, const Tensor& scale, int64_t N
) {
  const int64_t K = static_cast<int64_t>(v.size());
  std::vector<float> y(static_cast<size_t>(N)), row(v.size());
  for (int64_t n = 0; n < N; ++n) {
    read_row(weight, n, row);
    double sum = 0;
    for (int64_t begin = 0; begin < K; begin += kFp8Block) {
      const int64_t end = std::min(K, begin + kFp8Block);
      double part = 0;
      for (int64_t k = begin; k < end; ++k)
        part += static_cast<double>(v[static_cast<size_t>(k)]) * row[static_cast<size_t>(k)];
      sum += part * scale_at(scale, n, begin);
    }
    y[static_cast<size_t>(n)] = static_cast<float>(sum);
  }
  return y;
}

std::vector<float> expert(const GroupedMoe& args, const std::vector<float>& x, int64_t e) {
  const int64_t I = args.down.data.dim(2);
  const auto scale_of = [&](const QTensor& q) {
    return q.scale.defined() ? q.scale.row(e) : q.scale;
  };
  const std::vector<float> gu = product(x, args.gate_up.data.row(e), scale_of(args.gate_up), 2 * I);
  std::vector<float> h(static_cast<size_t>(I));
  for (size_t i = 0; i < h.size(); ++i) {
    const float gate = gu[i];
    h[i] = gate / (1.0f + std::exp(-gate)) * gu[h.size() + i];
    if (!args.quantise_activations && args.x.dtype == DType::bf16)
      h[i] = bf16_to_float(float_to_bf16(h[i]));
  }
  quantise(args, h);
  return product(h, args.down.data.row(e), scale_of(args.down), args.x.dim(1));
}

void token(const GroupedMoe& args, int64_t t) {
  const int64_t C = args.x.dim(1);
  std::vector<float> x(static_cast<size_t>(C));
  for (int64_t c = 0; c < C; ++c) x[static_cast<size_t>(c)] = load_element(args.x.row(t), c);
  quantise(args, x);
  std::vector<double> sum(static_cast<size_t>(C), 0.0);
  for (int64_t s = 0; s < args.ids.dim(1); ++s) {
    const int32_t e = args.ids.row(t).as<int32_t>()[s];
    if (e < 0) continue;
    const std::vector<float> out = expert(args, x, e);
    const double weight = args.weights.row(t).as<float>()[s];
    for (size_t c = 0; c < out.size(); ++c) sum[c] += weight * out[c];
  }
  for (int64_t c = 0; c < C; ++c) {
    double v = args.scale * sum[static_cast<size_t>(c)];
    if (args.addend.defined()) v += load_element(args.addend.row(t), c);
    store_element(args.y.row(t), c, static_cast<float>(v));
  }
}

}  // namespace

void grouped_moe_ref(Exec& exec, const GroupedMoe& args) {
  exec.parallel_for(args.x.dim(0), 1, [&](Range tokens) {
    for (int64_t t = tokens.begin; t < tokens.end; ++t) token(args, t);
  });
}

}  // namespace fathom::ops
