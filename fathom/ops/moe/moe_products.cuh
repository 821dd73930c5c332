// The launches of grouped_moe's row sm90 and what passes between them (moe_routes.cuh first).
#pragma once

#include "fathom/core/cuda/tensor_map.h"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/moe/moe_routes.cuh"

namespace fathom::ops {

// h of all places: [places, I] e4m3 or bf16; rows without a token hold anything.
struct MoeHidden {
  uint8_t* rows = nullptr;
  // e4m3: [max_items][I / 128][width], the group's scale times the row's routing weight. BF16: the
  // routing weights, [max_items][width]; null for few tokens.
  const float* scale = nullptr;
};

// Fills h; memory from exec's workspace. Counts arrivals in the first half of exec's semaphores.
MoeHidden moe_gate_up(
    Exec& exec, const GroupedMoe& args, const MoeRoutes& routes, const MoeInput& x
);

// y = sum of weighted products of h (+ addend). Counts arrivals in the second half.
void moe_down(Exec& exec, const GroupedMoe& args, const MoeRoutes& routes, const MoeHidden& h);

// The same through memory, for many tokens; items of 64 or 128 rows.
void moe_down_by_place(
    Exec& exec, const GroupedMoe& args, const MoeRoutes& routes, const MoeHidden& h
);

// h as a product reads it: a box is the rows of an item and `blocks` neighbouring 128 bytes of K.
cuda::TensorMap map_of_hidden(
    const GroupedMoe& args, const MoeRoutes& routes, const MoeHidden& h, int blocks
);

// One tile of 128 bytes of K of BF16, four steps: d (+)= A B^T. Between wgmma_fence and
// wgmma_commit.
template <int Count>
__device__ __forceinline__ void mma_bf16_tile(
    float (&d)[Count], uint64_t a, uint64_t b, bool accumulate
) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const auto step = static_cast<uint64_t>(2 * k);
    device::mma_bf16(d, a + step, b + step, accumulate || k > 0);
  }
}

}  // namespace fathom::ops
