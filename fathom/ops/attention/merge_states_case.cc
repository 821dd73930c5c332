#include "fathom/ops/attention/merge_states.h"

#include <limits>

#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::MergeStates;

OpCase<MergeStates> merge_case(
    std::string name, int64_t T, int64_t H, int64_t D, DType dtype, bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            MergeStates args{
                .y = in.normal(dtype, {T, H, D}),
                .lse = in.normal(DType::f32, {T, H}, 4.0f),
                .other = in.normal(dtype, {T, H, D}),
                .other_lse = in.normal(DType::f32, {T, H}, 4.0f),
            };
            // Parts that saw nothing: one, the other, both.
            constexpr float kInfinity = std::numeric_limits<float>::infinity();
            for (int64_t i = 0; i < T * H; i += 5) args.lse.as<float>()[i] = -kInfinity;
            for (int64_t i = 0; i < T * H; i += 7) args.other_lse.as<float>()[i] = -kInfinity;
            for (int64_t i = 3; i < T * H; i += 11) args.other_lse.as<float>()[i] = kInfinity;
            return args;
          },
      // A few float operations an element; bf16: one rounding.
      .bound = dtype == DType::f32 ? Bound{.absolute = 1e-6, .relative = 1e-5}
                                   : Bound{.absolute = 1e-3, .relative = 0x1p-7},
      .bench = bench,
  };
}

}  // namespace

OpSuite merge_states_suite() {
  return make_suite<MergeStates>(
      ops::merge_states_table(),
      {
          merge_case("t0", 0, 8, 128, DType::f32),
          merge_case("odd", 7, 3, 33, DType::f32),
          merge_case("bf16", 9, 4, 128, DType::bf16),
          merge_case("nano_t256", 256, 8, 128, DType::f32, true),
          merge_case("v3_tp8_t1", 1, 16, 128, DType::bf16, true),
          merge_case("v3_tp8_t1024", 1024, 16, 128, DType::bf16, true),
          merge_case("v3_tp8_t4096", 4096, 16, 128, DType::bf16, true),
      }
  );
}

}  // namespace fathom::testing
