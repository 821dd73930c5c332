#include <cmath>
#include <cstring>

#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/w8a8_gemm.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/testing/op_case.h"
#include "fathom/testing/random_weight.h"

namespace fathom::testing {
namespace {

using ops::W8a8Gemm;

// How w lies in memory: as in the file, packed for the CPU, tiled for the GPU.
enum class Form : uint8_t { plain, packed, tiled };

struct Shape {
  int64_t M, N, K;
  Form form = Form::packed;
  DType x = DType::f32;
  DType y = DType::f32;
  bool bias = false;
  bool fp8 = false;
};

struct Layer {
  const char* name;
  int64_t N, K;
};

// DeepSeek-V3's layers (a shard of eight where tp8) and a Llama of 8 billion's.
constexpr Layer kLayers[] = {
    {"qkv_a", 2112, 7168},
    {"q_b", 24576, 1536},
    {"o", 7168, 16384},
    {"gate_up_dense_tp8", 4608, 7168},
    {"llama_4096", 4096, 4096},
    {"llama_down", 4096, 14336},
};

Tensor weight(CaseInputs& in, const Shape& s) {
  if (s.form == Form::packed)
    return random_weight(in, s.fp8 ? DType::f8e4m3x32 : DType::i8x16, s.N, s.K);
  const Tensor plain = random_weight(in, s.fp8 ? DType::f8e4m3 : DType::i8, s.N, s.K);
  if (s.form == Form::plain) return plain;
  const DType form = s.fp8 ? DType::f8e4m3x64 : DType::i8x64;
  const Tensor tiles = in.storage(form, {ops::tiled_rows(s.N), s.K});
  ops::tile_weight(Exec{}, {.source = plain, .tiled = tiles});
  return tiles;
}

constexpr float kLargeFp8Token = 2.0f;

W8a8Gemm make(CaseInputs& in, const Shape& s) {
  W8a8Gemm args;
  args.x = in.normal(s.x, {s.M, s.K});
  // A token far larger than the others, one far smaller, one of zeros.
  for (int64_t k = 0; k < s.K && s.M > 3 && s.x == DType::f32; ++k) {
    args.x.row(1).as<float>()[k] *= s.fp8 ? kLargeFp8Token : 300.0f;
    args.x.row(2).as<float>()[k] *= 1e-6f;
    args.x.row(3).as<float>()[k] = 0.0f;
  }
  args.w.data = weight(in, s);
  args.w.scale = in.normal(DType::f32, {s.N});
  // Positive, within a factor of four, for weights of about unit deviation, as FP8's codes are.
  for (int64_t n = 0; n < s.N; ++n) {
    float& scale = args.w.scale.as<float>()[n];
    scale = std::exp2(std::fmax(-1.0f, std::fmin(1.0f, scale))) / (s.fp8 ? 1.0f : 74.0f);
  }
  if (s.bias) args.bias = in.normal(DType::f32, {s.N});
  args.y = in.output(s.y, {s.M, s.N});
  return args;
}

// Codes are the reference's own. Outputs have a deviation of 2 kLargeFp8Token sqrt(K) at most; sums
// have 24 bits beside their largest partial one, four deviations, and lose one for each of the
// sqrt(128) of a block's roundings, 2^-20; six deviations of that, since a case has up to 1e7
// outputs, and bf16's half unit twice. Tensor cores sum a block with about 14 bits instead.
Bound fp8_bound(const Shape& s) {
  const bool bf16 = s.y == DType::bf16, tiles = s.form == Form::tiled;
  const double deviation = 2 * kLargeFp8Token * std::sqrt(static_cast<double>(s.K));
  return {
      .absolute = 6 * (tiles ? 0x1p-13 : 0x1p-20) * 4 * deviation + (s.bias ? 0x1p-20 : 0),
      .relative = bf16 ? 0x1p-7 + 0x1p-20 : 0x1p-20,
      .cosine = bf16 || tiles ? 1e-5 : 1e-10,
  };
}

// Codes and integer sums are the reference's own. What is left is roundings to float: of the sum
// and behind each of two scales, 2^-24 each; where y is bf16 the reference's half unit and this
// one's, which meet when those roundings part at a tie (one output in 40,000); a bias brings its
// own beside a sum that may nearly cancel it, of outputs below 6 x 300 x 1.3 x sqrt(K) < 2^18.
Bound bound(const Shape& s) {
  if (s.fp8) return fp8_bound(s);
  return {
      .absolute = s.bias ? 0x1p-6 : 0,
      .relative = s.y == DType::bf16 ? 0x1p-7 + 0x1p-22 : 0x1p-22,
      .cosine = s.y == DType::bf16 ? 1e-5 : 1e-12,
  };
}

OpCase<W8a8Gemm> gemm_case(std::string name, const Shape& s, bool bench = false) {
  return {
      .name = std::move(name),
      .make = [=](CaseInputs& in) { return make(in, s); },
      .bound = bound(s),
      .bench = bench,
      .large = s.M * s.N * s.K > 60'000'000,
  };
}

// All codes at their ends, over the largest K: the sums are the largest that may occur.
OpCase<W8a8Gemm> extreme_case(std::string name, Form form) {
  const Shape s{.M = 2, .N = 32, .K = 1 << 17, .form = form};
  OpCase<W8a8Gemm> c = gemm_case(std::move(name), s);
  c.make = [=](CaseInputs& in) {
    W8a8Gemm args = make(in, s);
    for (int64_t k = 0; k < s.K; ++k) {
      args.x.row(0).as<float>()[k] = -3.0f;
      args.x.row(1).as<float>()[k] = 3.0f;
    }
    // i8x16 keeps 128 more than the code.
    std::memset(
        args.w.data.data, form == Form::packed ? 0 : 0x80, static_cast<size_t>(args.w.data.bytes())
    );
    return args;
  };
  return c;
}

// The same of FP8: tokens of one value, weights of the largest; the sum is exact but for scales.
OpCase<W8a8Gemm> extreme_fp8_case(std::string name, Form form) {
  const Shape s{.M = 2, .N = 32, .K = 4096, .form = form, .fp8 = true};
  OpCase<W8a8Gemm> c = gemm_case(std::move(name), s);
  c.make = [=](CaseInputs& in) {
    W8a8Gemm args = make(in, s);
    for (int64_t k = 0; k < s.K; ++k) {
      args.x.row(0).as<float>()[k] = -3.0f;
      args.x.row(1).as<float>()[k] = 3.0f;
    }
    std::memset(args.w.data.data, 0x7e, static_cast<size_t>(args.w.data.bytes()));
    return args;
  };
  c.bound = {.absolute = 0, .relative = 1e-5, .cosine = 1e-10};
  return c;
}

std::vector<OpCase<W8a8Gemm>> fp8_cases() {
  const DType bf16 = DType::bf16, f32 = DType::f32;
  const auto fp8 = [](std::string name, Shape s, bool bench = false) {
    s.fp8 = true;
    return gemm_case("fp8_" + std::move(name), s, bench);
  };
  std::vector<OpCase<W8a8Gemm>> cases = {
      fp8("m0", {0, 64, 128}),
      fp8("n1", {2, 1, 128}),
      fp8("plain_odd", {5, 37, 45, Form::plain}),
      fp8("plain_bias", {5, 37, 45, Form::plain, bf16, bf16, true}),
      fp8("m1", {1, 64, 768}),
      fp8("m5_odd", {5, 77, 384}),
      fp8("m7_bf16", {7, 200, 256, Form::packed, bf16, bf16}),
      fp8("m29_bias", {29, 48, 512, Form::packed, f32, f32, true}),
      fp8("m150", {150, 96, 640, Form::packed, f32, bf16}),
      extreme_fp8_case("fp8_extreme_plain", Form::plain),
      extreme_fp8_case("fp8_extreme_packed", Form::packed),
      extreme_fp8_case("fp8_extreme_tiled", Form::tiled),
      fp8("tiled_m1_n1", {1, 1, 128, Form::tiled, bf16, f32}),
      fp8("tiled_odd", {5, 77, 384, Form::tiled, bf16, bf16}),
      fp8("tiled_bias", {9, 200, 256, Form::tiled, bf16, bf16, true}),
      fp8("tiled_f32", {33, 320, 512, Form::tiled}),
      fp8("tiled_m100", {100, 320, 640, Form::tiled, bf16, bf16, true}),
      fp8("tiled_m129", {129, 256, 512, Form::tiled, bf16, bf16}),
      fp8("tiled_m200_odd", {200, 701, 384, Form::tiled, bf16, bf16, true}),
      fp8("tiled_m300_f32", {300, 320, 640, Form::tiled, f32, f32, true}),
  };
  for (const Layer& l : kLayers) {
    const std::string name(l.name);
    for (const int64_t M : {1, 8, 512})
      cases.push_back(
          fp8(name + "_packed_m" + std::to_string(M), {M, l.N, l.K, Form::packed, f32, f32}, true)
      );
    for (const int64_t M : {1, 8, 32, 128, 1024, 4096})
      cases.push_back(
          fp8(name + "_m" + std::to_string(M), {M, l.N, l.K, Form::tiled, bf16, bf16}, true)
      );
  }
  return cases;
}

}  // namespace

OpSuite w8a8_gemm_suite() {
  const DType bf16 = DType::bf16, f32 = DType::f32;
  std::vector<OpCase<W8a8Gemm>> cases = {
      gemm_case("m0", {0, 64, 64}),
      gemm_case("n1", {2, 1, 32}),
      gemm_case("plain_odd", {5, 37, 45, Form::plain}),
      gemm_case("plain_bias", {5, 37, 45, Form::plain, bf16, bf16, true}),
      gemm_case("m1", {1, 64, 768}),
      gemm_case("m5_odd", {5, 77, 96}),
      gemm_case("m7_bf16", {7, 200, 320, Form::packed, bf16, bf16}),
      gemm_case("m29_bias", {29, 48, 512, Form::packed, f32, f32, true}),
      gemm_case("m70", {70, 96, 544, Form::packed, f32, bf16}),
      extreme_case("extreme_plain", Form::plain),
      extreme_case("extreme_packed", Form::packed),
      extreme_case("extreme_tiled", Form::tiled),
      gemm_case("tiled_m1_n1", {1, 1, 128, Form::tiled, bf16, f32}),
      gemm_case("tiled_odd", {5, 77, 384, Form::tiled, bf16, bf16}),
      gemm_case("tiled_bias", {9, 200, 256, Form::tiled, bf16, bf16, true}),
      gemm_case("tiled_f32", {33, 320, 512, Form::tiled}),
      gemm_case("tiled_m129", {129, 256, 512, Form::tiled, bf16, bf16}),
      gemm_case("tiled_m200_odd", {200, 701, 384, Form::tiled, bf16, bf16, true}),
      gemm_case("nano_qkv_a_m1", {1, 320, 384}, true),
      gemm_case("nano_o_m1", {1, 384, 512}, true),
  };
  for (const Layer& l : kLayers) {
    const std::string name(l.name);
    for (const int64_t M : {1, 8, 512})
      cases.push_back(gemm_case(
          name + "_packed_m" + std::to_string(M), {M, l.N, l.K, Form::packed, f32, f32}, true
      ));
    for (const int64_t M : {1, 8, 32, 128, 1024, 4096})
      cases.push_back(
          gemm_case(name + "_m" + std::to_string(M), {M, l.N, l.K, Form::tiled, bf16, bf16}, true)
      );
  }
  for (OpCase<W8a8Gemm>& c : fp8_cases()) cases.push_back(std::move(c));
  return make_suite<W8a8Gemm>(ops::w8a8_gemm_table(), std::move(cases));
}

}  // namespace fathom::testing
