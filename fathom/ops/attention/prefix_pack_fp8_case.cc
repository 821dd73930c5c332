#include "fathom/ops/attention/prefix_pack_fp8.h"

#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::PrefixPackFp8;

struct Heads {
  int64_t H, N, R, Dv;
};
constexpr Heads kV3Tp8{16, 128, 64, 128};
constexpr Heads kV3{128, 128, 64, 128};

OpCase<PrefixPackFp8> pack_case(
    std::string name,
    int64_t S,
    Heads h,
    DType dtype,
    bool bench = false,
    float deviation = 1.0f,
    int64_t padding = 0
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            const int64_t width = h.H * (h.N + h.Dv);
            return PrefixPackFp8{
                .kv = in.normal(dtype, {S, width + padding}, deviation).slice(1, 0, width),
                .k_rope = in.normal(dtype, {S, h.R + padding}, deviation).slice(1, 0, h.R),
                .k_scale_inv = 3.7f,
                .v_scale_inv = 0.9f,
                .keys = in.output(DType::f8e4m3, {S, h.H, h.N + h.R}),
                .values = in.output(DType::f8e4m3, {S, h.H, h.Dv}),
            };
          },
      .bound = {},  // one product and one rounding, the same everywhere
      .bench = bench,
      .large = S * h.H > 40'000,
  };
}

}  // namespace

OpSuite prefix_pack_fp8_suite() {
  return make_suite<PrefixPackFp8>(
      ops::prefix_pack_fp8_table(),
      {
          pack_case("s0", 0, kV3Tp8, DType::bf16),
          pack_case("odd", 5, {3, 7, 2, 5}, DType::f32),
          pack_case("odd_bf16", 5, {3, 7, 2, 5}, DType::bf16),
          pack_case("saturated", 9, kV3Tp8, DType::bf16, false, 300.0f),
          pack_case("f32", 9, kV3Tp8, DType::f32),
          pack_case("strided", 9, kV3Tp8, DType::bf16, false, 1.0f, 64),
          pack_case("unaligned", 9, kV3Tp8, DType::bf16, false, 1.0f, 3),
          pack_case("v3_tp8_s1", 1, kV3Tp8, DType::bf16, true),
          pack_case("v3_tp8_s128", 128, kV3Tp8, DType::bf16, true),
          pack_case("v3_tp8_s1024", 1024, kV3Tp8, DType::bf16, true),
          pack_case("v3_tp8_s4096", 4096, kV3Tp8, DType::bf16, true),
          pack_case("v3_s1", 1, kV3, DType::bf16, true),
          pack_case("v3_s4096", 4096, kV3, DType::bf16, true),
      }
  );
}

}  // namespace fathom::testing
