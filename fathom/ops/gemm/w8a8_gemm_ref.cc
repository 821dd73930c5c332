#include <algorithm>
#include <vector>

#include "fathom/ops/element.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/w8a8_gemm_rows.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/quant/int8_rows.h"

namespace fathom::ops {
namespace {

// A token's codes, and what a step of one stands for.
struct Token {
  std::vector<int8_t> codes;
  float scale;
};

Token quantise(const Tensor& x) {
  const int64_t K = x.dim(0);
  float amax = 0;
  for (int64_t k = 0; k < K; ++k) amax = std::max(amax, std::fabs(load_element(x, k)));
  const Int8Scale scale = Int8Scale::of(amax);
  Token token{.codes = {}, .scale = scale.scale};
  for (int64_t k = 0; k < K; ++k) token.codes.push_back(scale.code(load_element(x, k)));
  return token;
}

// Row n of w, whatever its form.
std::vector<int8_t> read_row(const Tensor& w, int64_t n, int64_t K) {
  std::vector<int8_t> codes(static_cast<size_t>(K));
  if (w.dtype == DType::i8x64) {
    const auto* bytes = static_cast<const int8_t*>(w.data);
    for (int64_t k = 0; k < K; ++k) codes[static_cast<size_t>(k)] = bytes[tile_offset(n, k, K)];
    return codes;
  }
  std::vector<float> values(codes.size());
  decode_row(w, n, values.data());
  for (size_t k = 0; k < codes.size(); ++k) codes[k] = static_cast<int8_t>(values[k]);
  return codes;
}

int64_t dot(const std::vector<int8_t>& a, const std::vector<int8_t>& b) {
  constexpr size_t kExact = size_t{1} << 16;  // products whose sum 32 bits hold
  int64_t sum = 0;
  for (size_t from = 0; from < a.size(); from += kExact) {
    const size_t end = std::min(a.size(), from + kExact);
    int32_t part = 0;
    for (size_t k = from; k < end; ++k) part += a[k] * b[k];
    sum += part;
  }
  return sum;
}

}  // namespace

void w8a8_gemm_ref(Exec& exec, const W8a8Gemm& args) {
  const int64_t M = args.x.dim(0), K = args.x.dim(1), N = args.y.dim(1);
  std::vector<Token> tokens;
  for (int64_t m = 0; m < M; ++m) tokens.push_back(quantise(args.x.row(m)));
  exec.parallel_for(N, 1, [&](Range range) {
    for (int64_t n = range.begin; n < range.end; ++n) {
      const std::vector<int8_t> w = read_row(args.w.data, n, K);
      const double channel = args.w.scale.as<float>()[n];
      for (int64_t m = 0; m < M; ++m) {
        const Token& token = tokens[static_cast<size_t>(m)];
        double value =
            static_cast<double>(dot(token.codes, w)) * static_cast<double>(token.scale) * channel;
        if (args.bias.defined()) value += load_element(args.bias, n);
        store_element(args.y, m * args.y.stride(0) + n, static_cast<float>(value));
      }
    }
  });
}

}  // namespace fathom::ops
