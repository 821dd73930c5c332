// grouped_moe on Hopper: what its two rows take, and their launches, each the programmatic
// dependent of the one before. docs/kernels/grouped_moe.md.
#include <algorithm>

#include "fathom/ops/moe/grouped_moe_rows.h"
#include "fathom/ops/moe/moe_products.cuh"

namespace fathom::ops {
namespace {

constexpr int64_t kMostSlots = 32;  // of a token: a lane has one

bool takes(const GroupedMoe& args) {
  const DType weight = args.gate_up.data.dtype;
  const bool fp8 =
      weight == DType::f8e4m3x64 && args.quantise_activations && !has_channel_scales(args.gate_up);
  const bool bf16 = weight == DType::bf16x64;
  const auto aligned = [](const Tensor& t) {
    return !t.defined() || (reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) % 8 == 0);
  };
  return (fp8 || bf16) && args.down.data.dtype == weight && args.x.dtype == DType::bf16 &&
         args.x.dim(1) % 128 == 0 && args.down.data.dim(2) % 128 == 0 &&
         args.gate_up.data.dim(0) <= 1024 && aligned(args.x) && aligned(args.y) &&
         aligned(args.addend);
}

// Pieces of the first product of so many tokens, at most: each has a semaphore.
int64_t pieces_of(const GroupedMoe& args, int64_t tokens) {
  const int64_t rows = tokens * args.ids.dim(1), E = args.gate_up.data.dim(0);
  return (std::min(E, rows) + rows / kTileItem) * (args.down.data.dim(2) / 128);
}

// As many tokens as semaphores allow, in equal parts; 0: not one.
int64_t tokens_at_once(const GroupedMoe& args) {
  constexpr int64_t kMostParts = 64;
  const int64_t T = args.x.dim(0);
  for (int64_t parts = 1; parts <= kMostParts; ++parts) {
    const int64_t tokens = (T + parts - 1) / parts;
    if (pieces_of(args, tokens) <= Exec::kSemaphoreWords / 2) return tokens;
  }
  return 0;
}

void run_tile(Exec& exec, const GroupedMoe& args) {
  Workspace::Mark mark(*exec.workspace);
  const MoeRoutes routes = allocate_routes(exec, args, kTileItem);
  const MoeInput x = route_and_quantise(exec, args, routes);
  const MoeHidden h = moe_tile_gate_up(exec, args, routes, x);
  moe_tile_down(exec, args, routes, h);
}

}  // namespace

bool grouped_moe_takes_few_sm90(const Exec& exec, const GroupedMoe& args) {
  return takes(args) && moe_few_takes(exec, args);
}

void grouped_moe_few_sm90(Exec& exec, const GroupedMoe& args) {
  if (args.x.dim(0) > 0) run_moe_few(exec, args);
}

bool grouped_moe_takes_tile_sm90(const Exec&, const GroupedMoe& args) {
  return takes(args) && args.x.dim(0) > 0 && args.ids.dim(1) <= kMostSlots &&
         tokens_at_once(args) > 0;
}

void grouped_moe_tile_sm90(Exec& exec, const GroupedMoe& args) {
  const int64_t T = args.x.dim(0), each = tokens_at_once(args);
  for (int64_t from = 0; from < T; from += each) {
    const auto part = [&](const Tensor& t) {
      return t.defined() ? t.slice(0, from, std::min(each, T - from)) : t;
    };
    GroupedMoe tokens = args;
    for (Tensor* t : {&tokens.x, &tokens.ids, &tokens.weights, &tokens.addend, &tokens.y})
      *t = part(*t);
    run_tile(exec, tokens);
  }
}

// Of one part: routes, x quantised, h, shared sums, products of all slots.
int64_t grouped_moe_tile_scratch_bytes(const MoeSize& size) {
  const int64_t rows = size.tokens * size.slots;
  const int64_t places = (std::min(size.experts, rows) + rows / kTileItem) * kTileItem;
  const int64_t of_place = 2 * size.intermediate + 2 * 4 + size.intermediate / 128 * 4;
  const int64_t of_token = size.hidden + size.hidden / 128 * 4;
  constexpr int64_t kSharedSums = 160 * 2 * int64_t{kTileItem} * 256 * 4;  // 160: SMs, and some
  const int64_t of_row = 4 + 2 * ((size.hidden + 255) / 256 * 256);
  constexpr int64_t kRounding = 1 << 16;
  return places * of_place + size.tokens * of_token + rows * of_row + kSharedSums + kRounding;
}

}  // namespace fathom::ops
