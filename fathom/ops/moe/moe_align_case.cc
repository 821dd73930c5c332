#include "fathom/ops/moe/moe_align.h"

#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::MoeAlign;

OpCase<MoeAlign> align_case(std::string name, int64_t T, int64_t k, int64_t E, bool bench = false) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            const auto last = static_cast<int32_t>(E - 1);
            MoeAlign args{
                .ids = in.integers(DType::i32, {T, k + 3}, -1, last).slice(1, 0, k),
                .slots = in.integers(DType::i32, {T * k}, 0, 9),
                .places = in.output(DType::i32, {T * k}),
                .begin = in.output(DType::i32, {E + 1}),
            };
            return args;
          },
      .bound = {},  // integers
      .bench = bench,
  };
}

}  // namespace

OpSuite moe_align_suite() {
  return make_suite<MoeAlign>(
      ops::moe_align_table(),
      {
          align_case("t0", 0, 2, 4),
          align_case("one_expert", 5, 1, 1),
          align_case("odd", 7, 3, 5),
          align_case("a_thousand_experts", 130, 8, 1000),
          align_case("one_cta_full", 113, 9, 257),
          align_case("clusters_odd", 1025, 7, 61),
          align_case("clusters_long", 9001, 6, 33),
          align_case("nano_t1", 1, 5, 17, true),
          align_case("v3_t1", 1, 9, 257, true),
          align_case("v3_t64", 64, 9, 257, true),
          align_case("v3_t4096", 4096, 9, 257, true),
      }
  );
}

}  // namespace fathom::testing
