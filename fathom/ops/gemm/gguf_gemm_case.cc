#include <cmath>

#include "fathom/ops/gemm/gguf_gemm.h"
#include "fathom/testing/op_case.h"
#include "fathom/testing/random_weight.h"

namespace fathom::testing {
namespace {

using ops::GgufGemm;

// Rounding x to int8 moves each element by a uniform error of deviation amax / 254 / sqrt(3), where
// the largest of 32 normal values is below 4.5: 0.0103. A sum of K such errors times unit weights
// has deviation 0.0103 sqrt(K); six of them bound every output that a case can have. Its typical
// value (amax = 2.1) is 0.5 % of the outputs' own deviation: 1 - cosine is about 1.2e-5.
Bound quantised_bound(int64_t K, DType y) {
  return {
      .absolute = 0.062 * std::sqrt(static_cast<double>(K)),
      .relative = y == DType::bf16 ? 0x1p-7 : 0,
      .cosine = 1e-4,
  };
}

struct Shape {
  int64_t M, N, K;
};

OpCase<GgufGemm> gguf_gemm_case(
    std::string name,
    Shape s,
    DType weight,
    bool bench = false,
    DType x = DType::f32,
    DType y = DType::f32,
    bool bias = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            GgufGemm args;
            args.x = in.normal(x, {s.M, s.K});
            args.weight = random_weight(in, weight, s.N, s.K);
            if (bias) args.bias = in.normal(DType::f32, {s.N});
            args.y = in.output(y, {s.M, s.N});
            return args;
          },
      .bound = quantised_bound(s.K, y),
      .bench = bench,
      .large = s.M * s.N * s.K > 15'000'000,
  };
}

}  // namespace

OpSuite gguf_gemm_suite() {
  std::vector<OpCase<GgufGemm>> cases;
  for (const DType d :
       {DType::q8_0,
        DType::q4_0,
        DType::q4_1,
        DType::q5_0,
        DType::q5_1,
        DType::q4_k,
        DType::q5_k,
        DType::q6_k}) {
    cases.push_back(gguf_gemm_case(std::string(name(d)), {3, 20, 512}, d));
  }
  for (const DType d :
       {DType::q8_0x16,
        DType::q4_0x16,
        DType::q4_1x16,
        DType::q5_0x16,
        DType::q5_1x16,
        DType::q4_kx16,
        DType::q5_kx16,
        DType::q6_kx16}) {
    const std::string type(name(d));
    cases.push_back(gguf_gemm_case(type + "_m1", {1, 64, 768}, d));
    cases.push_back(gguf_gemm_case(type + "_odd", {7, 37, 256}, d));
    cases.push_back(gguf_gemm_case(type + "_m29", {29, 48, 512}, d));
    cases.push_back(gguf_gemm_case(type + "_4096_m1", {1, 4096, 4096}, d, true));
    cases.push_back(gguf_gemm_case(type + "_4096_m8", {8, 4096, 4096}, d, true));
    cases.push_back(gguf_gemm_case(type + "_4096_m512", {512, 4096, 4096}, d, true));
  }
  const DType bf16 = DType::bf16;
  cases.push_back(gguf_gemm_case("bf16_bias", {5, 33, 96}, DType::q4_1x16, false, bf16, bf16, true)
  );
  cases.push_back(gguf_gemm_case("n1", {2, 1, 32}, DType::q8_0x16));
  cases.push_back(gguf_gemm_case("smollm2_qkv_m1", {1, 960, 576}, DType::q4_1x16, true));
  cases.push_back(gguf_gemm_case("smollm2_up_m1", {1, 3072, 576}, DType::q4_1x16, true));
  cases.push_back(gguf_gemm_case("smollm2_down_m1", {1, 576, 1536}, DType::q4_1x16, true));
  cases.push_back(gguf_gemm_case("smollm2_up_m8", {8, 3072, 576}, DType::q4_1x16, true));
  cases.push_back(gguf_gemm_case("smollm2_up_m512", {512, 3072, 576}, DType::q4_1x16, true));
  cases.push_back(gguf_gemm_case("smollm2_down_m512", {512, 576, 1536}, DType::q4_1x16, true));
  cases.push_back(gguf_gemm_case("smollm2_head_m1", {1, 49152, 576}, DType::q8_0x16, true));
  cases.push_back(gguf_gemm_case("smollm2_head_m8", {8, 49152, 576}, DType::q8_0x16, true));
  return make_suite<GgufGemm>(ops::gguf_gemm_table(), std::move(cases));
}

}  // namespace fathom::testing
