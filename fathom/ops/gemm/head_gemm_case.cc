#include "fathom/ops/gemm/head_gemm.h"

#include <algorithm>
#include <cmath>

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

bool is_code(DType weight) {
  return weight == DType::f8e4m3 || weight == DType::f8e4m3x32;
}

// x rounded to bf16 at worst: each term by up to 2^-9 of itself, which adds up as sqrt(K); terms
// reach 10 and more.
Bound code_bound(int64_t K, DType y) {
  Bound b = bound(K, y);
  b.absolute += 0x1p-6 * std::sqrt(static_cast<double>(K));
  b.cosine = 2e-5;
  return b;
}

Tensor scales(CaseInputs& in, int64_t rows, int64_t columns) {
  Tensor t = in.storage(DType::f32, {rows, columns});
  std::uniform_real_distribution<float> law(0.5f, 1.5f);
  for (int64_t i = 0; i < t.elements(); ++i) t.as<float>()[i] = law(in.random());
  return t;
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
            if (is_code(weight)) args.weight_scale = scales(in, s.H * s.N / 128, s.K / 128);
            args.y = in.output(y, {s.T, s.H, y_row}).slice(2, 0, s.N);
            return args;
          },
      .bound = is_code(weight) ? code_bound(s.K, y) : bound(s.K, y),
      .bench = bench,
      .large = s.T * s.H * s.N * s.K > 100'000'000,
  };
}

}  // namespace

OpSuite head_gemm_suite() {
  const DType f32 = DType::f32, bf16 = DType::bf16, packed = DType::f8e4m3x32;
  std::vector<OpCase<HeadGemm>> cases = {
      head_case("t0", {0, 2, 32, 32}, bf16, bf16, bf16),
      head_case("odd", {3, 2, 7, 13}, f32, f32, f32),
      head_case("packed_f16", {5, 3, 64, 96}, DType::f16x32, f32, f32),
      head_case("packed_f32", {2, 3, 32, 40, 48}, DType::f32x32, f32, f32),
      head_case("bf16_strided", {9, 3, 72, 160, 192, 80}, bf16, bf16, bf16),
      head_case("bf16_t17", {17, 2, 64, 128, 192}, bf16, bf16, bf16),
      head_case("bf16_t150", {150, 3, 136, 96}, bf16, bf16, bf16),
      head_case("codes_plain", {2, 3, 128, 256}, DType::f8e4m3, f32, f32),
      head_case("codes_t1", {1, 2, 128, 256, 0, 192}, packed, f32, f32),
      head_case("codes_t3_bf16", {3, 5, 256, 128, 192}, packed, bf16, bf16),
      head_case("codes_t41", {41, 3, 128, 384, 400, 160}, packed, f32, f32),
      head_case("nano_key_t1", {1, 8, 512, 128, 192}, packed, f32, f32, true),
      head_case("nano_key_t4", {4, 8, 512, 128, 192}, packed, f32, f32, true),
      head_case("nano_value_t1", {1, 8, 128, 512}, packed, f32, f32, true),
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
