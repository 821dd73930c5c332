#include "fathom/ops/norm/qk_norm.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::QkNorm;

// Float sums of D terms and one rounding to the output's dtype.
constexpr Bound kF32{.absolute = 1e-6, .relative = 1e-5};
constexpr Bound kBf16{.absolute = 1e-5, .relative = 0x1p-7, .cosine = 1e-4};

OpCase<QkNorm> qk_norm_case(
    std::string name, int64_t T, int64_t H, int64_t Hkv, int64_t D, DType dtype, bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            QkNorm args;
            args.q_weight = in.normal(DType::f32, {D});
            args.k_weight = in.normal(DType::f32, {D});
            const Tensor qkv = in.normal(dtype, {T, H + 2 * Hkv, D});
            args.q = qkv.slice(1, 0, H);
            args.k = qkv.slice(1, H, Hkv);
            return args;
          },
      .bound = dtype == DType::f32 ? kF32 : kBf16,
      .bench = bench,
  };
}

}  // namespace

OpSuite qk_norm_suite() {
  return make_suite<QkNorm>(
      ops::qk_norm_table(),
      {
          qk_norm_case("t0", 0, 2, 1, 64, DType::f32),
          qk_norm_case("odd", 3, 7, 1, 6, DType::f32),
          qk_norm_case("qwen3_06b_t1", 1, 16, 8, 128, DType::f32, true),
          qk_norm_case("qwen3_06b_t256", 256, 16, 8, 128, DType::f32, true),
          qk_norm_case("qwen3_8b_t16", 16, 32, 8, 128, DType::bf16, true),
      }
  );
}

}  // namespace fathom::testing
