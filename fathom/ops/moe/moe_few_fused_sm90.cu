// grouped_moe, row few_sm90, one or two tokens: both products by one kernel, a CTA an SM.
// docs/kernels/grouped_moe.md.
//
// A CTA has a run of units of the first product, as moe_few_gate_up_sm90.cu's, and then 64 outputs
// of the second one, or a share of the experts of 64 outputs. The weights of both come through one
// ring, so that those of the second product are on their way while the CTAs exchange what they have
// of the first: all by mail. A CTA's part of a piece (an expert's 128 channels of h) goes to the
// CTA that has the piece's last unit; that one adds the parts up in the CTAs' order and sends h to
// each CTA that multiplies it.
//
// A token is WGMMA's column of its number. Each warp of the loaders owns a slot of the ring: it
// asks for weights, and puts beside them x, quantised, or h from the mail.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/core/device_words.h"
#include "fathom/ops/moe/moe_few_fused_sm90.h"
#include "fathom/ops/moe/moe_fused_consumers.cuh"
#include "fathom/ops/moe/moe_fused_loaders.cuh"

namespace fathom::ops {
namespace moe_fused {
namespace {

template <bool Fp8>
__global__ void __launch_bounds__(kThreads, 1) both_products(const Arguments a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Fp8>*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int i = 0; i < kSlots; ++i) {
      s.full[i].init(1 + 32);
      s.empty[i].init(kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  for (int i = thread; i < static_cast<int>(sizeof(s.rows) / 16); i += kThreads)
    reinterpret_cast<uint4*>(s.rows)[i] = {0, 0, 0, 0};
  device::fence_shared_for_async();
  __syncthreads();
  const int warp = __shfl_sync(device::kFullWarp, thread / 32, 0);
  if (warp < kConsumers / 32) {
    Consumer<Fp8>{a, s}.run();
  } else {
    Loader<Fp8>{a, s}.run(warp - kConsumers / 32);
  }
}

}  // namespace
}  // namespace moe_fused

bool moe_few_fused(Exec& exec, const GroupedMoe& args) {
  using namespace moe_fused;
  const bool fp8 = args.quantise_activations;
  const int64_t T = args.x.dim(0), C = args.x.dim(1), I = args.down.data.dim(2);
  const int64_t slots = args.ids.elements(), grid = cuda::multiprocessors(exec.device.index);
  const int64_t groups = I / kChannels, tiles = C / kOutputs;
  const int64_t pieces = std::min(slots, args.gate_up.data.dim(0)) * groups;
  if (T > kTokens || slots > SlotRoute::kSlots || tiles > grid) return false;
  const int64_t shares = std::min<int64_t>(grid / tiles, kShares);
  const int64_t each = (pieces + grid - 1) / grid + 1;
  const int64_t parts = grid * each * 2 * T * kChannels, sums = tiles * shares * T * kOutputs;
  const int64_t letter = 4 * (fp8 ? Letter<true>::kChunks : Letter<false>::kChunks);
  if (parts + sums + pieces * tiles * T * letter > kMailWords) return false;
  const auto blocks = static_cast<int>(C * (fp8 ? 1 : 2) / kTileRowBytes);
  const auto by = [](int64_t n) { return Divisor::of(static_cast<int>(n)); };
  const Arguments a{
      .choice = choice_of(args),
      .x = static_cast<const uint8_t*>(args.x.data),
      .gate_up = static_cast<const uint8_t*>(args.gate_up.data.data),
      .down = static_cast<const uint8_t*>(args.down.data.data),
      .gate_up_scale = static_cast<const float*>(args.gate_up.scale.data),
      .down_scale = static_cast<const float*>(args.down.scale.data),
      .addend = static_cast<const __nv_bfloat16*>(args.addend.data),
      .y = static_cast<__nv_bfloat16*>(args.y.data),
      .x_row_bytes = args.x.stride(0) * 2,
      .addend_stride = args.addend.defined() ? args.addend.stride(0) : 0,
      .y_stride = args.y.stride(0),
      .parts = mail_of(exec),
      .hidden = mail_of(exec) + parts + sums,
      .sums = mail_of(exec) + parts,
      .groups = static_cast<int>(groups),
      .blocks = blocks,
      .tiles = static_cast<int>(tiles),
      .shares = static_cast<int>(shares),
      .each = static_cast<int>(each),
      .by_k = by(args.ids.dim(1)),
      .by_grid = by(grid),
      .by_groups = by(groups),
      .by_blocks = by(blocks),
      .by_tiles = by(tiles),
      .by_shares = by(shares),
      .ue8m0 = args.ue8m0,
  };
  const size_t shared = fp8 ? sizeof(SharedStorage<true>) : sizeof(SharedStorage<false>);
  cuda::launch(
      exec,
      "grouped_moe",
      {.grid = dim3(static_cast<unsigned>(grid)),
       .threads = kThreads,
       .shared_bytes = static_cast<int>(shared)},
      fp8 ? both_products<true> : both_products<false>,
      a
  );
  return true;
}

}  // namespace fathom::ops
