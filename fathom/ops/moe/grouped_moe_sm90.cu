// grouped_moe, row sm90: each launch the programmatic dependent of the one before: routes and
// quantised x (few tokens: none), h, y. docs/kernels/grouped_moe.md.
#include "fathom/ops/moe/grouped_moe_rows.h"
#include "fathom/ops/moe/moe_products.cuh"

namespace fathom::ops {
namespace {

constexpr int64_t kFewTokens = 512;  // their sums of 64 outputs lie in shared memory

// Rows of an item: an expert's rows rarely fill more than one or two.
int width_of(const GroupedMoe& args) {
  const int64_t T = args.x.dim(0), E = args.gate_up.data.dim(0);
  if (T > kFewTokens) return args.ids.elements() <= 48 * E ? 64 : 128;
  return T <= 8 || args.ids.elements() <= 4 * E ? 8 : 32;
}

}  // namespace

bool grouped_moe_takes_sm90(const Exec&, const GroupedMoe& args) {
  const DType weight = args.gate_up.data.dtype;
  const bool fp8 = weight == DType::f8e4m3x64 && args.quantise_activations;
  const bool bf16 = weight == DType::bf16x64;
  const auto aligned = [](const Tensor& t) {
    return !t.defined() || (reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) % 8 == 0);
  };
  const int64_t E = args.gate_up.data.dim(0);
  const int64_t pieces = (std::min(E, args.ids.elements()) + args.ids.elements() / width_of(args)) *
                         (args.down.data.dim(2) / 128);
  return (fp8 || bf16) && args.down.data.dtype == weight && args.x.dtype == DType::bf16 &&
         args.x.dim(1) % 128 == 0 && args.down.data.dim(2) % 128 == 0 && E <= 1024 &&
         pieces <= Exec::kSemaphoreWords / 2 && aligned(args.x) && aligned(args.y) &&
         aligned(args.addend);
}

void grouped_moe_sm90(Exec& exec, const GroupedMoe& args) {
  if (args.x.dim(0) == 0) return;
  Workspace::Mark mark(*exec.workspace);
  const MoeRoutes routes = allocate_routes(exec, args, width_of(args));
  const MoeInput x = route_and_quantise(exec, args, routes);
  const MoeHidden h = moe_gate_up(exec, args, routes, x);
  if (args.x.dim(0) > kFewTokens) {
    moe_down_by_place(exec, args, routes, h);
  } else {
    moe_down(exec, args, routes, h);
  }
}

}  // namespace fathom::ops
