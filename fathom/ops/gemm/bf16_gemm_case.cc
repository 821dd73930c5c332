#include <cmath>

#include "fathom/ops/gemm/bf16_gemm.h"
#include "fathom/testing/op_case.h"
#include "fathom/testing/random_weight.h"

namespace fathom::testing {
namespace {

using ops::Bf16Gemm;

// K float additions in sequence: each rounds by at most 2^-24 of a partial sum, whose deviation is
// below sqrt(K); errors add like a random walk to 2^-24 K. Eight of them; nearly equal sums may
// round to neighbouring bf16 values, a whole unit in the last place apart.
Bound float_bound(int64_t K, DType y) {
  return {
      .absolute = 0x1p-21 * static_cast<double>(K),
      .relative = y == DType::bf16 ? 0x1p-7 : 0,
      .cosine = y == DType::bf16 ? 1e-5 : 1e-9,
  };
}

struct Shape {
  int64_t M, N, K;
};

// Decode products of DeepSeek-V2-Lite, Llama-8B and DeepSeek-V3.
struct Layer {
  const char* name;
  int64_t N, K;
};
constexpr Layer kDecodeLayers[] = {
    {"2048_576", 576, 2048},
    {"2048_2048", 2048, 2048},
    {"2048_3072", 3072, 2048},
    {"7168_2112", 2112, 7168},
    {"4096_4096", 4096, 4096},
    {"14336_4096", 4096, 14336},
    {"4096_28672", 28672, 4096},
    {"2048_102400", 102400, 2048},
};
// Of 17 to 128 tokens; Llama-8B's `o` and `up` have names of their own.
constexpr Layer kFewTokenLayers[] = {
    {"2048_576", 576, 2048},
    {"2048_2048", 2048, 2048},
    {"2048_3072", 3072, 2048},
    {"4096_6144", 6144, 4096},
    {"14336_4096", 4096, 14336},
    {"2048_102400", 102400, 2048},
};

// f32 that bf16 holds exactly: rows that round x to bf16 then give what the others give.
Tensor bf16_values(CaseInputs& in, int64_t M, int64_t K) {
  Tensor x = in.normal(DType::f32, {M, K});
  for (int64_t i = 0; i < x.elements(); ++i)
    x.as<float>()[i] = bf16_to_float(float_to_bf16(x.as<float>()[i]));
  return x;
}

OpCase<Bf16Gemm> bf16_gemm_case(
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
            Bf16Gemm args;
            const bool rounds = weight == DType::bf16x32 && x == DType::f32;
            args.x = rounds ? bf16_values(in, s.M, s.K) : in.normal(x, {s.M, s.K});
            args.weight = random_weight(in, weight, s.N, s.K);
            if (bias) args.bias = in.normal(DType::f32, {s.N});
            args.y = in.output(y, {s.M, s.N});
            return args;
          },
      .bound = float_bound(s.K, y),
      .bench = bench,
      .large = s.M * s.N * s.K > 15'000'000,
  };
}

}  // namespace

OpSuite bf16_gemm_suite() {
  const DType f32 = DType::f32, bf16 = DType::bf16;
  std::vector<OpCase<Bf16Gemm>> cases;
  for (const DType d : {DType::bf16, DType::f16, DType::f32}) {
    cases.push_back(bf16_gemm_case(std::string(name(d)), {3, 20, 77}, d, false, bf16, bf16, true));
  }
  for (const DType d : {DType::bf16x32, DType::f16x32, DType::f32x32}) {
    const std::string type(name(d));
    cases.push_back(bf16_gemm_case(type + "_m1", {1, 64, 770}, d));
    cases.push_back(bf16_gemm_case(type + "_odd", {7, 37, 90}, d, false, bf16, f32, true));
    cases.push_back(bf16_gemm_case(type + "_m61", {61, 100, 1100}, d, false, f32, bf16));
    cases.push_back(bf16_gemm_case(type + "_4096_m1", {1, 4096, 4096}, d, true));
    cases.push_back(bf16_gemm_case(type + "_4096_m8", {8, 4096, 4096}, d, true));
    cases.push_back(bf16_gemm_case(type + "_4096_m512", {512, 4096, 4096}, d, true));
  }
  cases.push_back(bf16_gemm_case("n1", {2, 1, 2}, DType::bf16x32));
  cases.push_back(bf16_gemm_case("deepseek_v3_router", {8, 256, 7168}, f32, true, bf16, f32));
  cases.push_back(bf16_gemm_case("deepseek_v3_head", {8, 16160, 7168}, bf16, true, bf16, bf16));
  cases.push_back(bf16_gemm_case("smollm2_up_m1", {1, 3072, 576}, DType::bf16x32, true));
  cases.push_back(bf16_gemm_case("smollm2_up_m512", {512, 3072, 576}, DType::bf16x32, true));
  cases.push_back(bf16_gemm_case("smollm2_head_m1", {1, 49152, 576}, DType::bf16x32, true));
  cases.push_back(bf16_gemm_case("decode_odd", {3, 77, 128}, bf16, false, bf16, bf16, true));
  cases.push_back(bf16_gemm_case("decode_n1", {1, 1, 64}, bf16, false, bf16, f32));
  cases.push_back(bf16_gemm_case("decode_m1_k5000", {1, 1001, 5000}, bf16, false, bf16, bf16, true)
  );
  cases.push_back(bf16_gemm_case("decode_m1_k16384", {1, 77, 16384}, bf16, false, bf16, f32));
  cases.push_back(bf16_gemm_case("decode_m1_claimed", {1, 17003, 64}, bf16, false, bf16, bf16));
  cases.push_back(
      bf16_gemm_case("decode_m5_claimed", {5, 25001, 320}, bf16, false, bf16, bf16, true)
  );
  cases.push_back(bf16_gemm_case("decode_m9_claimed", {9, 25001, 640}, bf16, false, bf16, f32, true)
  );
  cases.push_back(bf16_gemm_case("decode_m3_k2112", {3, 24580, 2112}, bf16, false, bf16, bf16));
  cases.push_back(bf16_gemm_case("decode_m9", {9, 3001, 640}, bf16, false, bf16, f32, true));
  cases.push_back(bf16_gemm_case("decode_m16", {16, 2500, 320}, bf16, false, bf16, bf16));
  cases.push_back(bf16_gemm_case("decode_m5_k4160", {5, 6001, 4160}, bf16, false, bf16, bf16, true)
  );
  cases.push_back(bf16_gemm_case("decode_m13_k8192", {13, 77, 8192}, bf16, false, bf16, f32));
  cases.push_back(bf16_gemm_case("decode_m9_k8256", {9, 2500, 8256}, bf16, false, bf16, f32, true));
  for (const Layer& layer : kDecodeLayers) {
    for (const int64_t M : {1, 8, 16}) {
      const std::string name = std::string("decode_") + layer.name + "_m" + std::to_string(M);
      cases.push_back(bf16_gemm_case(name, {M, layer.N, layer.K}, bf16, true, bf16, bf16));
    }
  }
  cases.push_back(bf16_gemm_case("few_m11", {11, 1000, 4160}, bf16, false, bf16, bf16, true));
  cases.push_back(bf16_gemm_case("few_m30", {30, 1001, 4096}, bf16, false, bf16, bf16));
  cases.push_back(bf16_gemm_case("few_m17", {17, 77, 192}, bf16, false, bf16, bf16, true));
  cases.push_back(bf16_gemm_case("few_m32_k64", {32, 20, 64}, bf16, false, bf16, f32));
  cases.push_back(bf16_gemm_case("few_m33", {33, 1100, 320}, bf16, false, bf16, f32, true));
  cases.push_back(bf16_gemm_case("few_m64", {64, 200, 1216}, bf16, false, bf16, bf16));
  cases.push_back(bf16_gemm_case("few_m65", {65, 130, 1728}, bf16, false, bf16, bf16, true));
  cases.push_back(bf16_gemm_case("few_m100", {100, 1001, 128}, bf16, false, bf16, f32, true));
  cases.push_back(bf16_gemm_case("few_m128", {128, 392, 256}, bf16, false, bf16, bf16));
  for (const Layer& layer : kFewTokenLayers) {
    for (const int64_t M : {32, 64, 128}) {
      const std::string name = std::string("decode_") + layer.name + "_m" + std::to_string(M);
      cases.push_back(bf16_gemm_case(name, {M, layer.N, layer.K}, bf16, true, bf16, bf16));
    }
  }
  cases.push_back(bf16_gemm_case("tile_odd", {19, 77, 104}, bf16, false, bf16, bf16, true));
  cases.push_back(bf16_gemm_case("tile_m65", {65, 200, 264}, bf16, false, bf16, f32, true));
  cases.push_back(bf16_gemm_case("tile_m300", {300, 530, 200}, bf16, false, bf16, bf16));
  for (const int64_t M : {32, 64, 128, 1024, 4096}) {
    const std::string m = std::to_string(M);
    cases.push_back(bf16_gemm_case("llama_8b_o_m" + m, {M, 4096, 4096}, bf16, true, bf16, bf16));
    cases.push_back(bf16_gemm_case("llama_8b_up_m" + m, {M, 28672, 4096}, bf16, true, bf16, bf16));
  }
  return make_suite<Bf16Gemm>(ops::bf16_gemm_table(), std::move(cases));
}

}  // namespace fathom::testing
