#include "fathom/ops/sample/token_logprob.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::TokenLogprob;

OpCase<TokenLogprob> logprob_case(std::string name, int64_t B, int64_t V, bool bench = false) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            return TokenLogprob{
                .logits = in.normal(DType::f32, {B, V}, 4.0f),
                .token = in.integers(DType::i32, {B}, 0, V - 1),
                .logprob = in.output(DType::f32, {B}),
            };
          },
      // Float sums of V exponentials.
      .bound = {.absolute = 1e-5, .relative = 1e-5},
      .bench = bench,
      .large = B * V > 4'000'000,
  };
}

}  // namespace

OpSuite token_logprob_suite() {
  return make_suite<TokenLogprob>(
      ops::token_logprob_table(),
      {
          logprob_case("b0", 0, 7),
          logprob_case("v1", 3, 1),
          logprob_case("odd", 5, 77),
          logprob_case("one_slice_and_one", 3, 4097),
          logprob_case("nano_b64", 64, 4096, true),
          logprob_case("smollm2_b8", 8, 49152, true),
          logprob_case("deepseek_b1", 1, 129280, true),
          logprob_case("deepseek_b256", 256, 129280, true),
      }
  );
}

}  // namespace fathom::testing
