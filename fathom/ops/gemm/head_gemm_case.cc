#include "fathom/ops/gemm/head_gemm.h"
#include "fathom/testing/op_case.h"
#include "fathom/testing/random_weight.h"

namespace fathom::testing {
namespace {

using ops::HeadGemm;

struct Shape {
  int64_t T, H, N, K;
  int64_t x_row = 0, y_row = 0;  // of a head in memory; 0: K, N
};

// As bf16_gemm's: K float additions in sequence, and one rounding of y.
Bound bound(int64_t K, DType y) {
  return {
      .absolute = 0x1p-21 * static_cast<double>(K),
      .relative = y == DType::bf16 ? 0x1p-7 : 0,
      .cosine = y == DType::bf16 ? 1e-5 : 1e-9,
  };
}

OpCase<HeadGemm> head_case(
    std::string name, Shape s, DType weight, DType x, DType y, bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            const int64_t x_row = std::max(s.K, s.x_row), y_row = std::max(s.N, s.y_row);
            HeadGemm args;
            args.x = in.normal(x, {s.T, s.H, x_row}).slice(2, 0, s.K);
            args.weight = random_weight(in, weight, s.H * s.N, s.K);
            args.y = in.output(y, {s.T, s.H, y_row}).slice(2, 0, s.N);
            return args;
          },
      .bound = bound(s.K, y),
      .bench = bench,
      .large = s.T * s.H * s.N * s.K > 100'000'000,
  };
}

}  // namespace

OpSuite head_gemm_suite() {
  const DType f32 = DType::f32, bf16 = DType::bf16;
  std::vector<OpCase<HeadGemm>> cases = {
      head_case("t0", {0, 2, 32, 32}, bf16, bf16, bf16),
      head_case("odd", {3, 2, 7, 13}, f32, f32, f32),
      head_case("packed_f16", {5, 3, 64, 96}, DType::f16x32, f32, f32),
      head_case("packed_f32", {2, 3, 32, 40, 48}, DType::f32x32, f32, f32),
      head_case("bf16_strided", {9, 3, 72, 160, 192, 80}, bf16, bf16, bf16),
      head_case("bf16_t17", {17, 2, 64, 128, 192}, bf16, bf16, bf16),
      head_case("bf16_t150", {150, 3, 136, 96}, bf16, bf16, bf16),
  };
  // Queries of a head carry their rope part behind them.
  for (const int64_t T : {1, 8, 32, 1024}) {
    const std::string t = "_t" + std::to_string(T);
    cases.push_back(head_case("v3_key" + t, {T, 128, 512, 128, 192}, bf16, bf16, bf16, true));
    cases.push_back(head_case("v3_value" + t, {T, 128, 128, 512}, bf16, bf16, bf16, true));
    cases.push_back(head_case("v2_lite_key" + t, {T, 16, 512, 128, 192}, bf16, bf16, bf16, true));
    cases.push_back(head_case("v2_lite_value" + t, {T, 16, 128, 512}, bf16, bf16, bf16, true));
  }
  return make_suite<HeadGemm>(ops::head_gemm_table(), std::move(cases));
}

}  // namespace fathom::testing
