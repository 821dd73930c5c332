#include "fathom/ops/attention/mla_expand.h"

#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::MlaExpand;

struct Heads {
  int64_t H, N, R, Dv;
};

OpCase<MlaExpand> expand_case(
    std::string name, int64_t S, Heads h, DType dtype, bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            return MlaExpand{
                .kv = in.normal(dtype, {S, h.H * (h.N + h.Dv)}),
                .k_rope = in.normal(dtype, {S, h.R}),
                .keys = in.output(dtype, {S, h.H, h.N + h.R}),
                .values = in.output(dtype, {S, h.H, h.Dv}),
            };
          },
      .bound = {},  // a copy is exact
      .bench = bench,
  };
}

}  // namespace

OpSuite mla_expand_suite() {
  return make_suite<MlaExpand>(
      ops::mla_expand_table(),
      {
          expand_case("s0", 0, {2, 8, 4, 6}, DType::f32),
          expand_case("odd", 5, {3, 7, 2, 5}, DType::f32),
          expand_case("bf16", 9, {4, 128, 64, 128}, DType::bf16),
          expand_case("nano_s512", 512, {8, 128, 64, 128}, DType::f32, true),
      }
  );
}

}  // namespace fathom::testing
