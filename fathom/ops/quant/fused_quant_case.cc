#include "fathom/ops/quant/fused_quant.h"

#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::FusedQuant;

// Bit-equal: the same IEEE operations in the same order.
constexpr Bound kExact{};
// silu's exponential differs in its last bits: a value on a rounding border may take the
// neighbouring code (relative 2^-3), scales move by the same few bits.
constexpr Bound kSwiglu{.absolute = 0x1p-9, .relative = 0x1p-3, .cosine = 1e-5};

struct Shape {
  int64_t T, K;
  DType dtype = DType::bf16;
  FusedQuant::Prologue prologue = FusedQuant::Prologue::none;
  bool ue8m0 = false;
  int64_t padding = 0;  // columns between the rows of x
  float deviation = 1.0f;
};

OpCase<FusedQuant> quant_case(std::string name, Shape s, bool bench = false) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            FusedQuant args;
            const bool swiglu = s.prologue == FusedQuant::Prologue::swiglu;
            const int64_t columns = swiglu ? 2 * s.K : s.K;
            args.x = in.normal(s.dtype, {s.T, columns + s.padding}, s.deviation);
            args.x = args.x.slice(1, 0, columns);
            args.prologue = s.prologue;
            args.ue8m0 = s.ue8m0;
            args.y = in.output(DType::f8e4m3, {s.T, s.K});
            const int64_t stride = (s.T + 3) / 4 * 4;
            args.scale = in.output(DType::f32, {ops::fp8_blocks(s.K), stride}).slice(1, 0, s.T);
            return args;
          },
      .bound = s.prologue == FusedQuant::Prologue::swiglu ? kSwiglu : kExact,
      .bench = bench,
      .large = s.T * s.K > 4'000'000,
  };
}

}  // namespace

OpSuite fused_quant_suite() {
  const auto swiglu = FusedQuant::Prologue::swiglu;
  return make_suite<FusedQuant>(
      ops::fused_quant_table(),
      {
          quant_case("t0", {0, 128}),
          quant_case("zeros", {3, 256, DType::f32, {}, false, 0, 0.0f}),
          quant_case("tiny_values", {3, 256, DType::f32, {}, false, 0, 1e-12f}),
          quant_case("huge_values", {3, 256, DType::f32, {}, false, 0, 1e30f}),
          quant_case("partial_group", {5, 200, DType::f32}),
          quant_case("strided_f32", {7, 384, DType::f32, {}, false, 192}),
          quant_case("strided_bf16", {7, 512, DType::bf16, {}, false, 64}),
          quant_case("ue8m0", {9, 512, DType::bf16, {}, true}),
          quant_case("ue8m0_f32", {9, 512, DType::f32, {}, true}),
          quant_case("swiglu_f32", {5, 256, DType::f32, swiglu}),
          quant_case("swiglu_ue8m0", {5, 256, DType::bf16, swiglu, true}),
          quant_case("v3_hidden_t1", {1, 7168}, true),
          quant_case("v3_hidden_t32", {32, 7168}, true),
          quant_case("v3_hidden_t128", {128, 7168}, true),
          quant_case("v3_hidden_t4096", {4096, 7168}, true),
          quant_case("v3_q_lora_t128", {128, 1536}, true),
          quant_case("v3_attention_out_t32", {32, 16384}, true),
          quant_case("v3_expert_tp8_t1", {8, 256, DType::bf16, swiglu}, true),
          quant_case("v3_expert_t128", {1024, 2048, DType::bf16, swiglu}, true),
          quant_case("v3_dense_tp8_t128", {128, 2304, DType::bf16, swiglu}, true),
          quant_case("v3_dense_t4096", {4096, 18432, DType::bf16, swiglu}, true),
      }
  );
}

}  // namespace fathom::testing
