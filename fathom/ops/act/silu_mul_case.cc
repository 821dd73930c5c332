#include "fathom/ops/act/silu_mul.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::SiluMul;

// A handful of float roundings and an exponential good to 1e-6; one rounding to the output's dtype.
constexpr Bound kF32{.absolute = 1e-7, .relative = 4e-6};
constexpr Bound kBf16{.absolute = 1e-5, .relative = 0x1p-7, .cosine = 1e-4};

OpCase<SiluMul> silu_mul_case(
    std::string name, int64_t T, int64_t I, DType dtype, float deviation, bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            const Tensor both = in.normal(dtype, {T, 2 * I}, deviation);
            return SiluMul{
                .gate = both.slice(1, 0, I),
                .up = both.slice(1, I, I),
                .y = in.output(dtype, {T, I}),
            };
          },
      .bound = dtype == DType::f32 ? kF32 : kBf16,
      .bench = bench,
      .large = T * I > 4'000'000,
  };
}

}  // namespace

OpSuite silu_mul_suite() {
  return make_suite<SiluMul>(
      ops::silu_mul_table(),
      {
          silu_mul_case("t0", 0, 64, DType::f32, 1),
          silu_mul_case("one", 1, 1, DType::f32, 1),
          silu_mul_case("odd_saturated", 3, 77, DType::f32, 60),
          silu_mul_case("smollm2_t1", 1, 1536, DType::f32, 1, true),
          silu_mul_case("smollm2_t512", 512, 1536, DType::f32, 1, true),
          silu_mul_case("llama_8b_t1", 1, 14336, DType::bf16, 1, true),
          silu_mul_case("llama_8b_t4096", 4096, 14336, DType::bf16, 1, true),
      }
  );
}

}  // namespace fathom::testing
