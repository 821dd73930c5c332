// grouped_moe, row sm90: each launch the programmatic dependent of the one before: routes and
// quantised x (few tokens: none), h, y. docs/kernels/grouped_moe.md.
#include <algorithm>

#include "fathom/ops/moe/grouped_moe_rows.h"
#include "fathom/ops/moe/moe_products.cuh"

namespace fathom::ops {
namespace {

constexpr int64_t kFewTokens = 512;  // their sums of 64 outputs lie in shared memory

// Rows of an item: an expert's rows rarely fill more than one or two.
int width_of(const GroupedMoe& args, int64_t tokens) {
  const int64_t rows = tokens * args.ids.dim(1), E = args.gate_up.data.dim(0);
  if (tokens > kFewTokens) return rows <= 48 * E ? 64 : 128;
  return tokens <= 8 || rows <= 4 * E ? 8 : 32;
}

// Pieces of the first product of so many tokens, at most: each has a semaphore.
int64_t pieces_of(const GroupedMoe& args, int64_t tokens) {
  const int64_t rows = tokens * args.ids.dim(1), E = args.gate_up.data.dim(0);
  return (std::min(E, rows) + rows / width_of(args, tokens)) * (args.down.data.dim(2) / 128);
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

void run(Exec& exec, const GroupedMoe& args) {
  Workspace::Mark mark(*exec.workspace);
  const MoeRoutes routes = allocate_routes(exec, args, width_of(args, args.x.dim(0)));
  const MoeInput x = route_and_quantise(exec, args, routes);
  const MoeHidden h = moe_gate_up(exec, args, routes, x);
  if (args.x.dim(0) > kFewTokens) {
    moe_down_by_place(exec, args, routes, h);
  } else {
    moe_down(exec, args, routes, h);
  }
}

}  // namespace

bool grouped_moe_takes_sm90(const Exec&, const GroupedMoe& args) {
  const DType weight = args.gate_up.data.dtype;
  const bool fp8 = weight == DType::f8e4m3x64 && args.quantise_activations;
  const bool bf16 = weight == DType::bf16x64;
  const auto aligned = [](const Tensor& t) {
    return !t.defined() || (reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) % 8 == 0);
  };
  return (fp8 || bf16) && args.down.data.dtype == weight && args.x.dtype == DType::bf16 &&
         args.x.dim(1) % 128 == 0 && args.down.data.dim(2) % 128 == 0 &&
         args.gate_up.data.dim(0) <= 1024 && aligned(args.x) && aligned(args.y) &&
         aligned(args.addend) && (args.x.dim(0) == 0 || tokens_at_once(args) > 0);
}

void grouped_moe_sm90(Exec& exec, const GroupedMoe& args) {
  const int64_t T = args.x.dim(0);
  if (T == 0) return;
  const int64_t each = tokens_at_once(args);
  for (int64_t from = 0; from < T; from += each) {
    const auto part = [&](const Tensor& t) {
      return t.defined() ? t.slice(0, from, std::min(each, T - from)) : t;
    };
    GroupedMoe tokens = args;
    for (Tensor* t : {&tokens.x, &tokens.ids, &tokens.weights, &tokens.addend, &tokens.y})
      *t = part(*t);
    run(exec, tokens);
  }
}

}  // namespace fathom::ops
