// The launches of grouped_moe's Hopper rows and what passes between them (moe_routes.cuh first).
#pragma once

#include "fathom/core/cuda/tensor_map.h"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/moe/moe_routes.cuh"

namespace fathom::ops {

// h of all places: [places, I] e4m3 or bf16; rows without a token hold anything.
struct MoeHidden {
  uint8_t* rows = nullptr;
  // e4m3: [items][I / 128][width], the group's scale times the row's routing weight. BF16: the
  // routing weights, [items][width].
  float* scale = nullptr;
  int64_t places = 0;
};

// Row few_sm90: one kernel, where routes are few and the mail has room.
bool moe_few_takes(const Exec& exec, const GroupedMoe& args);
void run_moe_few(Exec& exec, const GroupedMoe& args);

// Row tile_sm90: items of up to kTileItem rows.
inline constexpr int kTileItem = 160;
MoeHidden moe_tile_gate_up(
    Exec& exec, const GroupedMoe& args, const MoeRoutes& routes, const MoeInput& x
);
void moe_tile_down(Exec& exec, const GroupedMoe& args, const MoeRoutes& routes, const MoeHidden& h);

// h as a product reads it: a box is `box_rows` places and `blocks` neighbouring 128 bytes of K.
inline cuda::TensorMap map_of_hidden(
    const GroupedMoe& args, const MoeHidden& h, int box_rows, int blocks
) {
  const int64_t row_bytes = args.down.data.dim(2) * (args.quantise_activations ? 1 : 2);
  return cuda::make_tensor_map({
      .data = h.rows,
      .dtype = DType::u8,
      .rank = 3,
      .dims =
          {kTileRowBytes,
           static_cast<uint64_t>(h.places),
           static_cast<uint64_t>(row_bytes / kTileRowBytes)},
      .stride_bytes = {static_cast<uint64_t>(row_bytes), kTileRowBytes},
      .box = {kTileRowBytes, static_cast<uint32_t>(box_rows), static_cast<uint32_t>(blocks)},
  });
}

// threadIdx.x, read at this place: neither it nor what is made of it is kept from before.
__device__ __forceinline__ int thread_read_here() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

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
