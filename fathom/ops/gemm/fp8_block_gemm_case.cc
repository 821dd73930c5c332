#include <cmath>

#include "fathom/ops/gemm/fp8_block_gemm.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::Fp8BlockGemm;

struct Shape {
  const char* layer;
  int64_t N, K;
};

// How w lies in memory: as in the file, packed for the CPU, tiled for the GPU.
enum class Form : uint8_t { plain, packed, tiled };

// DeepSeek-V3's layers, whole or a shard of eight.
constexpr Shape kLayers[] = {
    {"qkv_a", 2112, 7168},
    {"q_b", 24576, 1536},
    {"kv_b", 32768, 512},
    {"o", 7168, 16384},
    {"gate_up_dense_tp8", 4608, 7168},
    {"down_dense_tp8", 7168, 2304},
    {"shared_gu", 4096, 7168},
    {"shared_down", 7168, 2048},
    {"lm_tp8", 16160, 7168},
};
constexpr int64_t kTokens[] = {1, 8, 32, 128, 1024, 4096};

// Positive, within a factor of four, as block scales are.
Tensor block_scales(CaseInputs& in, int64_t rows, int64_t columns) {
  Tensor t = in.normal(DType::f32, {rows, columns}, 0.5f);
  for (int64_t i = 0; i < t.elements(); ++i)
    t.as<float>()[i] = std::exp2(std::fmin(1.0f, std::fmax(-1.0f, t.as<float>()[i]))) / 16;
  return t;
}

Fp8BlockGemm make(CaseInputs& in, int64_t M, int64_t N, int64_t K, DType y, Form form) {
  Fp8BlockGemm args;
  args.x = in.normal(DType::f8e4m3, {M, K}, 16.0f);
  args.x_scale = block_scales(in, K / 128, (M + 3) / 4 * 4);
  args.w.data = in.normal(DType::f8e4m3, {N, K}, 16.0f);
  if (form == Form::tiled) {
    const DType dtype = ops::tiled_dtype(DType::f8e4m3, K);
    const Tensor tiles = in.storage(dtype, {ops::tiled_rows(N), K});
    ops::tile_weight(Exec{}, {.source = args.w.data, .tiled = tiles});
    args.w.data = tiles;
  } else if (form == Form::packed) {
    const DType dtype = ops::packed_dtype(DType::f8e4m3, K);
    const Tensor packed = in.storage(dtype, {ops::packed_rows(dtype, N), K});
    ops::pack_weight(Exec{}, {.source = args.w.data, .packed = packed});
    args.w.data = packed;
  }
  args.w.scale = block_scales(in, (N + 127) / 128, K / 128);
  args.y = in.output(y, {M, N});
  return args;
}

// Elements have a deviation of 1 after scaling, their products one of 1.27 since scales spread, a
// sum of K of them 1.27 sqrt(K). A block of 128 is summed with about 14 bits beside its largest
// partial sum: 2^-13 x 4 x 1.27 sqrt(128) a block, and blocks' errors add up like sqrt(K / 128).
// Six deviations, since a case has up to 1.3e8 outputs, and bf16's half unit.
Bound bound(int64_t K, DType y) {
  return {
      .absolute = 6 * 0x1p-13 * 4 * 1.27 * std::sqrt(static_cast<double>(K)),
      .relative = y == DType::bf16 ? 0x1p-7 : 1e-4,
      .cosine = 1e-5,
  };
}

OpCase<Fp8BlockGemm> gemm_case(
    std::string name, int64_t M, int64_t N, int64_t K, DType y, Form form, bool bench = false
) {
  return {
      .name = std::move(name),
      .make = [=](CaseInputs& in) { return make(in, M, N, K, y, form); },
      .bound = bound(K, y),
      .bench = bench,
      .large = M * N * K > 60'000'000,
  };
}

// Tokens that are not quantised yet.
OpCase<Fp8BlockGemm> bf16_case(
    std::string name,
    int64_t M,
    int64_t N,
    int64_t K,
    DType y,
    bool ue8m0 = false,
    bool bench = false
) {
  OpCase<Fp8BlockGemm> c = gemm_case(std::move(name), M, N, K, y, Form::tiled, bench);
  c.make = [=](CaseInputs& in) {
    Fp8BlockGemm args = make(in, M, N, K, y, Form::tiled);
    args.x = in.normal(DType::bf16, {M, K});
    args.x_scale = {};
    args.ue8m0 = ue8m0;
    return args;
  };
  c.large = false;  // the plain row takes them quantised only
  return c;
}

}  // namespace

OpSuite fp8_block_gemm_suite() {
  std::vector<OpCase<Fp8BlockGemm>> cases = {
      gemm_case("m0", 0, 128, 256, DType::bf16, Form::tiled),
      gemm_case("m1_n1", 1, 1, 128, DType::f32, Form::plain),
      gemm_case("row_major_odd", 5, 77, 384, DType::f32, Form::plain),
      gemm_case("tiled_odd", 5, 77, 384, DType::bf16, Form::tiled),
      gemm_case("tiled_f32", 9, 200, 256, DType::f32, Form::tiled),
      gemm_case("one_block", 16, 4096, 128, DType::bf16, Form::tiled),
      bf16_case("bf16_m1", 1, 200, 384, DType::bf16),
      bf16_case("bf16_m3", 3, 576, 1024, DType::f32),
      bf16_case("bf16_m8_ue8m0", 8, 77, 512, DType::bf16, true),
      bf16_case("bf16_qkv_a_m1", 1, 2112, 7168, DType::bf16, false, true),
      bf16_case("bf16_q_b_m1", 1, 24576, 1536, DType::bf16, false, true),
      bf16_case("bf16_o_m1", 1, 7168, 16384, DType::bf16, false, true),
      gemm_case("m17", 17, 576, 512, DType::bf16, Form::tiled),
      gemm_case("m33", 33, 320, 512, DType::bf16, Form::tiled),
      gemm_case("m65", 65, 192, 1024, DType::bf16, Form::tiled),
      gemm_case("m127", 127, 448, 640, DType::bf16, Form::tiled),
      gemm_case("m129", 129, 256, 512, DType::bf16, Form::tiled),
      gemm_case("m300", 300, 328, 384, DType::bf16, Form::tiled),
      gemm_case("m150_odd", 150, 77, 384, DType::f32, Form::tiled),
      gemm_case("m513", 513, 456, 256, DType::bf16, Form::tiled),
      gemm_case("m400_pairs", 400, 8560, 2048, DType::bf16, Form::tiled),
      gemm_case("deep", 3, 128, 16384, DType::bf16, Form::tiled),
      gemm_case("packed_m0", 0, 128, 256, DType::bf16, Form::packed),
      gemm_case("packed_n1", 1, 1, 128, DType::f32, Form::packed),
      gemm_case("packed_odd", 5, 77, 384, DType::f32, Form::packed),
      gemm_case("packed_m2", 2, 200, 256, DType::f32, Form::packed),
      gemm_case("packed_m29", 29, 320, 512, DType::bf16, Form::packed),
      gemm_case("packed_deep", 3, 160, 4096, DType::bf16, Form::packed),
  };
  for (const Shape& s : kLayers) {
    for (const int64_t M : kTokens) {
      cases.push_back(gemm_case(
          std::string(s.layer) + "_m" + std::to_string(M),
          M,
          s.N,
          s.K,
          DType::bf16,
          Form::tiled,
          true
      ));
    }
    for (const int64_t M : {1, 8, 512}) {
      cases.push_back(gemm_case(
          std::string(s.layer) + "_packed_m" + std::to_string(M),
          M,
          s.N,
          s.K,
          DType::bf16,
          Form::packed,
          true
      ));
    }
  }
  return make_suite<Fp8BlockGemm>(ops::fp8_block_gemm_table(), std::move(cases));
}

}  // namespace fathom::testing
