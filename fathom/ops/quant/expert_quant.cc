#include "fathom/ops/quant/expert_quant.h"

#include <algorithm>

#include "fathom/core/expect.h"
#include "fathom/ops/quant/expert_quant_rows.h"
#include "fathom/ops/quant/fp8_blocks.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<ExpertQuant> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_strided",
     .device = Device::Kind::cuda,
     .supports = expert_quant_takes_cuda_strided,
     .run = expert_quant_cuda_strided},
#endif
    {.name = "by_expert", .run = expert_quant_by_expert},
    {.name = "ref", .run = expert_quant_ref},
};
constexpr KernelTable<ExpertQuant> kTable{"expert_quant", kRows};

}  // namespace

const KernelTable<ExpertQuant>& expert_quant_table() {
  return kTable;
}

void expert_quant(Exec& exec, const ExpertQuant& args) {
  Expect expect(kTable.op, exec.device);
  expect.tensor("y", args.y, {"S", "K"}, {DType::f8e4m3})
      .tensor("x", args.x, {"S", "X"}, {DType::f32, DType::bf16})
      .tensor("first", args.first, {"E"}, {DType::i32})
      .tensor("count", args.count, {"E"}, {DType::i32})
      .tensor("scale", args.scale, {"G", "S"}, {DType::f32});
  const int64_t K = expect.size("K");
  const bool swiglu = args.prologue == FusedQuant::Prologue::swiglu;
  expect.that(K % kFp8Block == 0, "K is a multiple of 128")
      .that(args.x.dim(1) == (swiglu ? 2 * K : K), "x has K columns, 2 K with swiglu")
      .that(expect.size("G") == fp8_blocks(K), "scale has a row per 128 columns")
      .that(expect.size("E") <= 1024, "at most 1024 experts")
      .that(args.eps > 0, "eps > 0");
  kTable.run(exec, args);
}

// Of all rows, which a layout with a fixed room for each expert does not fill.
Cost cost(const ExpertQuant& args) {
  const double n = static_cast<double>(args.y.elements());
  return {
      .bytes = static_cast<double>(args.x.elements()) * info(args.x.dtype).block_bytes + n +
               4 * static_cast<double>(args.scale.elements() + 2 * args.first.dim(0)),
      .flops = n * (args.prologue == FusedQuant::Prologue::swiglu ? 8 : 3),
  };
}

GridShape grid_for(int64_t work, int processors) {
  constexpr int kMostThreads = 512, kLeastThreads = 128, kResident = 2048;
  GridShape shape{.ctas = 0, .threads = kMostThreads};
  const auto ctas = [&] { return (work + shape.threads - 1) / shape.threads; };
  while (ctas() < processors && shape.threads > kLeastThreads) shape.threads /= 2;
  shape.ctas = std::min<int64_t>(ctas(), int64_t{processors} * (kResident / shape.threads));
  return shape;
}

}  // namespace fathom::ops
