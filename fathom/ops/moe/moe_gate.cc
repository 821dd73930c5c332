#include "fathom/ops/moe/moe_gate.h"

#include "fathom/core/expect.h"
#include "fathom/ops/moe/moe_gate_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<MoeGate> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_groups",
     .device = Device::Kind::cuda,
     .supports = moe_gate_takes_groups,
     .run = moe_gate_cuda_groups},
    {.name = "cuda_warp",
     .device = Device::Kind::cuda,
     .supports = moe_gate_takes_warp,
     .run = moe_gate_cuda_warp},
#endif
    {.name = "select", .run = moe_gate_select},
    {.name = "ref", .run = moe_gate_ref},
};
constexpr KernelTable<MoeGate> kTable{"moe_gate", kRows};

}  // namespace

const KernelTable<MoeGate>& moe_gate_table() {
  return kTable;
}

void moe_gate(Exec& exec, const MoeGate& args) {
  Expect expect(kTable.op, exec.device);
  expect.tensor("logits", args.logits, {"T", "E"}, {DType::f32})
      .optional("bias", args.bias, {"E"}, {DType::f32})
      .optional("live_tokens", args.live_tokens, {"one"}, {DType::i32})
      .tensor("ids", args.ids, {"T", "slots"}, {DType::i32})
      .tensor("weights", args.weights, {"T", "slots"}, {DType::f32});
  const int64_t E = expect.size("E");
  const int64_t k = args.experts_per_token;
  expect.that(E <= 1024, "at most 1024 experts")
      .that(k >= 1 && k <= 32, "1 to 32 experts per token")
      .that(args.groups >= 1 && args.groups <= 32 && E % args.groups == 0, "groups divide E")
      .that(args.kept_groups >= 1 && args.kept_groups <= args.groups, "1 to `groups` kept groups")
      .that(k <= E / args.groups * args.kept_groups, "enough experts in the kept groups")
      .that(
          args.group_score == MoeGate::GroupScore::max || args.groups == 1 || E / args.groups >= 2,
          "two experts per group for the sum of two"
      )
      .that(args.shared_slots >= 0, "shared_slots >= 0")
      .that(expect.size("slots") == k + args.shared_slots, "a slot per expert, then the shared");
  kTable.run(exec, args);
}

Cost cost(const MoeGate& args) {
  const double scores = static_cast<double>(args.logits.elements());
  return {
      .bytes = 4 * scores + 8 * static_cast<double>(args.ids.elements()),
      .flops = scores * (4 + args.experts_per_token),
  };
}

}  // namespace fathom::ops
