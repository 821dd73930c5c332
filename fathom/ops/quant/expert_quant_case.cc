#include "fathom/ops/quant/expert_quant.h"

#include <vector>

#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::ExpertQuant;
using Prologue = ops::FusedQuant::Prologue;

// As fused_quant's: bit-equal, but for silu's exponential, which may move a code by 2^-3.
constexpr Bound kExact{};
constexpr Bound kSwiglu{.absolute = 0x1p-9, .relative = 0x1p-3, .cosine = 1e-5};

struct Shape {
  int64_t E, rows;   // rows of all experts, dealt at random
  int64_t room = 0;  // of an expert; 0: one after another
  int64_t K = 256;
  DType dtype = DType::bf16;
  Prologue prologue = Prologue::none;
  bool ue8m0 = false;
};

// How many rows each expert has; some have none.
std::vector<int32_t> deal(CaseInputs& in, const Shape& s) {
  std::vector<int32_t> count(static_cast<size_t>(s.E));
  std::uniform_int_distribution<size_t> expert(0, count.size() - 1);
  for (int64_t dealt = 0; dealt < s.rows;) {
    int32_t& n = count[expert(in.random())];
    if (s.room > 0 && n == s.room) continue;
    ++n;
    ++dealt;
  }
  return count;
}

OpCase<ExpertQuant> quant_case(std::string name, Shape s, bool bench = false) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            const std::vector<int32_t> count = deal(in, s);
            std::vector<int32_t> first(count.size());
            for (size_t e = 1; e < count.size(); ++e)
              first[e] = first[e - 1] + (s.room > 0 ? static_cast<int32_t>(s.room) : count[e - 1]);
            const int64_t S = s.room > 0 ? s.E * s.room : s.rows;
            ExpertQuant args;
            args.x = in.normal(s.dtype, {S, s.prologue == Prologue::swiglu ? 2 * s.K : s.K});
            args.first = in.values({s.E}, first);
            args.count = in.values({s.E}, count);
            args.prologue = s.prologue;
            args.ue8m0 = s.ue8m0;
            args.y = in.storage(DType::f8e4m3, {S, s.K});
            const int64_t stride = (S + 3) / 4 * 4;
            args.scale = in.storage(DType::f32, {ops::fp8_blocks(s.K), stride}).slice(1, 0, S);
            return args;
          },
      .bound = s.prologue == Prologue::swiglu ? kSwiglu : kExact,
      .bench = bench,
      .large = s.rows * s.K > 4'000'000,
  };
}

}  // namespace

OpSuite expert_quant_suite() {
  const auto swiglu = Prologue::swiglu;
  return make_suite<ExpertQuant>(
      ops::expert_quant_table(),
      {
          quant_case("no_rows", {5, 0}),
          quant_case("nothing_dealt", {5, 0, 4}),
          quant_case("one_expert", {1, 7, 0, 384}),
          quant_case("a_row_each", {9, 9, 1, 128, DType::f32}),
          quant_case("rooms", {7, 40, 16, 256, DType::f32, Prologue::none, true}),
          quant_case("rooms_swiglu", {7, 40, 16, 256, DType::bf16, swiglu}),
          quant_case("512_experts", {512, 700, 0, 128}),
          quant_case("1024_experts", {1024, 700, 2, 128}),
          quant_case("v3_t1", {256, 8, 0, 7168}, true),
          quant_case("v3_hidden_tp8_t1", {256, 8, 0, 256, DType::bf16, swiglu}, true),
          quant_case("v3_hidden_t128", {256, 1024, 0, 2048, DType::bf16, swiglu}, true),
          quant_case("v3_rooms_t128", {32, 1024, 128, 7168}, true),
          quant_case("v3_t1024", {256, 8192, 0, 7168}, true),
          quant_case("v3_hidden_t4096", {256, 32768, 0, 2048, DType::bf16, swiglu}, true),
      }
  );
}

}  // namespace fathom::testing
