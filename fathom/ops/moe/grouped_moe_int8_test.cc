// grouped_moe on packed int8 weights: every vector row gives the same bits, a token alone, among
// others and on any number of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "fathom/ops/moe/grouped_moe.h"
#include "fathom/testing/op_case.h"
#include "fathom/testing/random_weight.h"

namespace fathom::ops {
namespace {

using testing::CaseInputs;

constexpr int64_t kTokens = 23, kExperts = 5, kSlots = 3, kWidth = 192, kInner = 128;

// [kExperts, N, K], with scales.
QTensor stack(CaseInputs& in, int64_t N, int64_t K) {
  Tensor data = testing::random_weight(in, DType::i8x16, kExperts * N, K);
  const Tensor scale = in.normal(DType::f32, {kExperts, N}, 0.02f);
  data.rank = 3;
  data.dims = {kExperts, N, K};
  data.strides = {N * K, K, 1};
  return {.data = data, .scale = scale};
}

GroupedMoe make(CaseInputs& in) {
  GroupedMoe args;
  args.x = in.normal(DType::f32, {kTokens, kWidth});
  args.ids = in.storage(DType::i32, {kTokens, kSlots});
  args.weights = in.normal(DType::f32, {kTokens, kSlots});
  // Ascending, as the gate gives them; some slots idle, one expert crowded.
  constexpr int32_t kChoices[][kSlots] = {{0, 2, 4}, {1, 2, 3}, {-1, 2, 4}, {2, 3, 4}, {-1, -1, 2}};
  for (int64_t t = 0; t < kTokens; ++t)
    std::copy_n(kChoices[t % 5], kSlots, args.ids.row(t).as<int32_t>());
  args.gate_up = stack(in, 2 * kInner, kWidth);
  args.down = stack(in, kWidth, kInner);
  args.addend = in.normal(DType::f32, {kTokens, kWidth});
  args.quantise_activations = true;
  return args;
}

// Tokens [from, from + n) on one row of the table.
void run(const KernelRow<GroupedMoe>& row, GroupedMoe args, int64_t from, int64_t n, int threads) {
  MemoryLedger ledger;
  Result<Buffer> memory = Buffer::allocate(ledger, Device::cpu(), 1 << 24, Purpose::workspace);
  Workspace workspace(std::move(*memory));
  ThreadPool pool(threads);
  Exec exec{.workspace = &workspace, .pool = &pool};
  for (Tensor* t : {&args.x, &args.ids, &args.weights, &args.addend, &args.y})
    *t = t->slice(0, from, n);
  row.run(exec, args);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
}

TEST(GroupedMoeInt8, EveryRowGivesTheSameBits) {
  CaseInputs in(11);
  GroupedMoe args = make(in);
  Tensor wanted;
  for (const KernelRow<GroupedMoe>& row : grouped_moe_table().rows) {
    if (row.device != Device::Kind::cpu || row.name == "ref") continue;
    if (!row.supports(Exec{}, args)) continue;
    const auto fresh = [&] { return args.y = in.output(DType::f32, {kTokens, kWidth}); };
    const Tensor together = fresh();
    run(row, args, 0, kTokens, 1);
    const Tensor threaded = fresh();
    run(row, args, 0, kTokens, 3);
    EXPECT_TRUE(same_bits(together, threaded)) << row.name << ": threads change bits";
    const Tensor alone = fresh();
    for (int64_t t = 0; t < kTokens; ++t) run(row, args, t, 1, 2);
    EXPECT_TRUE(same_bits(together, alone)) << row.name << ": the batch changes bits";
    if (!wanted.defined()) wanted = together;
    EXPECT_TRUE(same_bits(wanted, together)) << row.name << ": another row's bits differ";
  }
  EXPECT_TRUE(wanted.defined());
  EXPECT_TRUE(in.red_zones_intact());
}

}  // namespace
}  // namespace fathom::ops
