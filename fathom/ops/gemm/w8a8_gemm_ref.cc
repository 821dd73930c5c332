#include <algorithm>
#include <vector>

#include "fathom/ops/element.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/w8a8_gemm_rows.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/quant/fp8_rows.h"
#include "fathom/ops/quant/int8_rows.h"

namespace fathom::ops {
namespace {

// A token's codes, and what a step of one stands for.
struct Token {
  std::vector<double> codes;
  float scale;
};

template <class Scale>
Token quantise(const Tensor& x, auto value_of) {
  const int64_t K = x.dim(0);
  float amax = 0;
  for (int64_t k = 0; k < K; ++k) amax = std::max(amax, std::fabs(load_element(x, k)));
  const Scale scale = Scale::of(amax);
  Token token{.codes = {}, .scale = scale.scale};
  for (int64_t k = 0; k < K; ++k) token.codes.push_back(value_of(scale.code(load_element(x, k))));
  return token;
}

bool is_int8(DType form) {
  return form == DType::i8 || form == DType::i8x16 || form == DType::i8x64;
}

Token quantise_as(DType form, const Tensor& x) {
  if (is_int8(form)) return quantise<Int8Scale>(x, [](int8_t code) { return code; });
  return quantise<Fp8RowScale>(x, f8e4m3_to_float);
}

// Row n of w, whatever its form.
std::vector<double> read_row(const Tensor& w, int64_t n, int64_t K) {
  std::vector<float> values(static_cast<size_t>(K));
  const auto* bytes = static_cast<const uint8_t*>(w.data);
  if (w.dtype == DType::i8x64) {
    for (int64_t k = 0; k < K; ++k)
      values[static_cast<size_t>(k)] = static_cast<int8_t>(bytes[tile_offset(n, k, K)]);
  } else if (w.dtype == DType::f8e4m3x64) {
    for (int64_t k = 0; k < K; ++k)
      values[static_cast<size_t>(k)] = f8e4m3_to_float(bytes[tile_offset(n, k, K)]);
  } else {
    decode_row(w, n, values.data());
  }
  return {values.begin(), values.end()};
}

// Exact: codes' products are multiples of 2^-18 below 2^18, and there are 2^17 at most.
double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t k = 0; k < a.size(); ++k) sum += a[k] * b[k];
  return sum;
}

}  // namespace

void w8a8_gemm_ref(Exec& exec, const W8a8Gemm& args) {
  const int64_t M = args.x.dim(0), K = args.x.dim(1), N = args.y.dim(1);
  std::vector<Token> tokens;
  for (int64_t m = 0; m < M; ++m) tokens.push_back(quantise_as(args.w.data.dtype, args.x.row(m)));
  exec.parallel_for(N, 1, [&](Range range) {
    for (int64_t n = range.begin; n < range.end; ++n) {
      const std::vector<double> w = read_row(args.w.data, n, K);
      const double channel = args.w.scale.as<float>()[n];
      for (int64_t m = 0; m < M; ++m) {
        const Token& token = tokens[static_cast<size_t>(m)];
        double value = dot(token.codes, w) * static_cast<double>(token.scale) * channel;
        if (args.bias.defined()) value += load_element(args.bias, n);
        store_element(args.y, m * args.y.stride(0) + n, static_cast<float>(value));
      }
    }
  });
}

}  // namespace fathom::ops
