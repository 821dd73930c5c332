#include "fathom/ops/norm/rms_norm.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::RmsNorm;

// One rounding to the output's dtype: half a unit in the last place, and float sums of C terms.
constexpr Bound kF32{.absolute = 1e-6, .relative = 1e-5};
constexpr Bound kBf16{.absolute = 1e-5, .relative = 0x1p-7, .cosine = 1e-4};

OpCase<RmsNorm> rms_norm_case(
    std::string name, int64_t T, int64_t C, DType dtype, bool residual, bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            RmsNorm args;
            args.x = in.normal(dtype, {T, C});
            args.weight = in.normal(dtype, {C}, 0.2f);
            if (residual) args.residual = in.normal(dtype, {T, C});
            args.y = in.output(dtype, {T, C});
            return args;
          },
      .bound = dtype == DType::f32 ? kF32 : kBf16,
      .bench = bench,
      .large = T * C > 4'000'000,
  };
}

}  // namespace

OpSuite rms_norm_suite() {
  return make_suite<RmsNorm>(
      ops::rms_norm_table(),
      {
          rms_norm_case("t0", 0, 576, DType::f32, false),
          rms_norm_case("c1", 3, 1, DType::f32, false),
          rms_norm_case("odd", 5, 77, DType::f32, true),
          rms_norm_case("smollm2_t1", 1, 576, DType::f32, true, true),
          rms_norm_case("smollm2_t512", 512, 576, DType::f32, true, true),
          rms_norm_case("llama_8b_t1", 1, 4096, DType::bf16, true, true),
          rms_norm_case("deepseek_v3_t1", 1, 7168, DType::bf16, true, true),
          rms_norm_case("deepseek_v3_t4096", 4096, 7168, DType::bf16, true, true),
          rms_norm_case("deepseek_v3_q_a", 128, 1536, DType::bf16, false, true),
      }
  );
}

}  // namespace fathom::testing
