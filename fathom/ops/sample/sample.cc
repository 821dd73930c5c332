#include "fathom/ops/sample/sample.h"

#include "fathom/core/expect.h"
#include "fathom/ops/sample/sample_rows.h"

namespace fathom::ops {
namespace {

bool argmax_suffices(const Exec&, const Sample& args) {
  return args.all_greedy && !args.logprob.defined() && !args.top_token.defined();
}

bool no_drafts(const Exec&, const Sample& args) {
  return !args.draft_begin.defined();
}

constexpr KernelRow<Sample> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_argmax",
     .device = Device::Kind::cuda,
     .supports = sample_takes_cuda_argmax,
     .run = sample_cuda_argmax},
    {.name = "cuda_stream",
     .device = Device::Kind::cuda,
     .supports = sample_takes_cuda_stream,
     .run = sample_cuda_stream},
    {.name = "cuda_law",
     .device = Device::Kind::cuda,
     .supports = sample_takes_cuda_law,
     .run = sample_cuda_law},
#endif
    {.name = "argmax", .supports = argmax_suffices, .run = sample_argmax},
    {.name = "select", .supports = no_drafts, .run = sample_select},
    {.name = "ref", .run = sample_ref},
};
constexpr KernelTable<Sample> kTable{"sample", kRows};

}  // namespace

const KernelTable<Sample>& sample_table() {
  return kTable;
}

void sample(Exec& exec, const Sample& args) {
  Expect(kTable.op, exec.device)
      .tensor("logits", args.logits, {"B", "V"}, {DType::f32})
      .tensor("temperature", args.temperature, {"B"}, {DType::f32})
      .tensor("top_p", args.top_p, {"B"}, {DType::f32})
      .tensor("min_p", args.min_p, {"B"}, {DType::f32})
      .tensor("top_k", args.top_k, {"B"}, {DType::i32})
      .tensor("seed", args.seed, {"B"}, {DType::i64})
      .tensor("position", args.position, {"B"}, {DType::i32})
      .optional("slot", args.slot, {"B"}, {DType::i32})
      .optional("counts", args.counts, {"slots", "V"}, {DType::i32})
      .optional("prompt_seen", args.prompt_seen, {"slots", "V"}, {DType::u8})
      .optional("repetition", args.repetition, {"B"}, {DType::f32})
      .optional("presence", args.presence, {"B"}, {DType::f32})
      .optional("frequency", args.frequency, {"B"}, {DType::f32})
      .optional("bias_begin", args.bias_begin, {"B+1"}, {DType::i32})
      .optional("draft_begin", args.draft_begin, {"B+1"}, {DType::i32})
      .tensor("token", args.token, {"B"}, {DType::i32})
      .tensor("healthy", args.healthy, {"B"}, {DType::u8})
      .optional("logprob", args.logprob, {"B"}, {DType::f32})
      .optional("top_token", args.top_token, {"B", "k"}, {DType::i32})
      .optional("top_logprob", args.top_logprob, {"B", "k"}, {DType::f32})
      .that(
          args.counts.defined() == args.repetition.defined(), "counts and penalties come together"
      );
  kTable.run(exec, args);
}

Cost cost(const Sample& args) {
  const double n = static_cast<double>(args.logits.elements());
  return {.bytes = 4 * n, .flops = args.all_greedy ? n : 4 * n};
}

// SplitMix64's finaliser over (seed, position, draw): every triple is its own stream of one number.
float uniform_of(uint64_t seed, uint32_t position, uint32_t draw) {
  const uint64_t counter = static_cast<uint64_t>(draw) << 32 | position;
  uint64_t x = seed + 0x9e3779b97f4a7c15ull * (counter + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  return static_cast<float>(x >> 40) * 0x1p-24f;
}

}  // namespace fathom::ops
