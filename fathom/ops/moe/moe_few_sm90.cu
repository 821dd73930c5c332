// grouped_moe, row few_sm90: both products by one kernel, a CTA an SM. docs/kernels/grouped_moe.md.
//
// A job of the first product is a run of units of a piece: an expert's 128 channels of h, by 128
// bytes of K; one of the second product 64 outputs of an expert by some K, or two times 64. CTAs
// claim jobs in that order, so that those whose memory is fast do more. The weights of all come
// through one ring. Sums go by mail: of a piece to the CTA that makes h of it and sends it to
// each CTA that multiplies it; of outputs to the CTA that adds the experts up. What is added up,
// and in what order, does not depend on who did it.
//
// Warps have roles: consumers multiply, loaders fill the ring, a warp a slot, and finishers make h
// and outputs of sums.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/core/device_words.h"
#include "fathom/ops/moe/moe_few_consumers.cuh"
#include "fathom/ops/moe/moe_few_finishers.cuh"
#include "fathom/ops/moe/moe_few_loaders.cuh"
#include "fathom/ops/moe/moe_products.cuh"

namespace fathom::ops {
namespace moe_few {
namespace {

template <bool Fp8>
__global__ void __launch_bounds__(kThreads, 1) both_products(const Arguments a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Fp8>*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < 2 * kTokens * kOutputs; i += kThreads) s.total[0][0][i] = 0;
  if (thread == 0) {
    for (int i = 0; i < kSlots; ++i) {
      s.full[i].init(1 + 32);
      s.empty[i].init(kConsumers / 32);
    }
    for (Barrier& told : s.told) told.init(1);
    device::fence_barrier_init();
  }
  __syncthreads();
  device::wait_for_predecessor();
  s.routes.make(a.choice);
  const int warp = __shfl_sync(device::kFullWarp, thread / 32, 0);
  Finisher<Fp8> finisher{a, s};
  if (warp < kConsumers / 32) {
    Consumer<Fp8>{a, s}.run();
  } else if (warp < (kConsumers + kLoaders) / 32) {
    Loader<Fp8>{a, s, warp - kConsumers / 32}.run();
    return;
  } else {
    finisher.make_hidden();
  }
  if (a.home) device::named_barrier<2>(kConsumers + kFinishers);  // its sums are there
  if (warp >= (kConsumers + kLoaders) / 32) finisher.make_outputs();
}

// How the work is cut, and how much mail that takes.
struct Plan {
  int64_t groups, tiles;             // of 128 channels of h, of 64 outputs
  int64_t blocks, down_blocks;       // of 128 bytes of K
  int64_t units, splits;             // blocks of a job of the first product; a piece's jobs
  bool home, wide;                   // Arguments
  int64_t lengths, stretches, subs;  // slots, jobs, sums of an expert's 64 outputs
  int64_t parts_mail, hidden_mail, sums_mail;

  Plan(const GroupedMoe& args, int64_t grid) {
    const bool fp8 = args.quantise_activations;
    const int64_t C = args.x.dim(1), I = args.down.data.dim(2), pairs = args.ids.elements();
    groups = I / kChannels;
    tiles = C / kOutputs;
    blocks = C * (fp8 ? 1 : 2) / kTileRowBytes;
    down_blocks = I * (fp8 ? 1 : 2) / kTileRowBytes;
    units = kUnits;
    while (blocks % units != 0) --units;
    splits = blocks / units;
    const int64_t items = std::min(pairs, args.gate_up.data.dim(0));
    home = down_blocks <= 2 && tiles <= grid && items <= 2 * kSlots;
    wide = down_blocks <= 2 && !home;
    lengths = (down_blocks + kTiles - 1) / kTiles;
    stretches = (lengths + kStretch - 1) / kStretch;
    subs = wide ? 1 : 2 * stretches;
    const int64_t chunks = fp8 ? Letter<true>::kChunks : Letter<false>::kChunks;
    parts_mail = pairs * groups * splits * 2 * kChannels;
    hidden_mail = pairs * groups * tiles * chunks * 4;
    sums_mail = home ? 0 : pairs * tiles * subs * kOutputs;
  }
  bool fits() const {
    return parts_mail + hidden_mail + sums_mail <= kMailWords && tiles < Job::kMostPlaces &&
           splits < Job::kMostParts;
  }
};

Plan plan_of(const Exec& exec, const GroupedMoe& args) {
  return Plan(args, cuda::multiprocessors(exec.device.index));
}

}  // namespace
}  // namespace moe_few

bool moe_few_takes(const Exec& exec, const GroupedMoe& args) {
  return has_few_routes(args) && moe_few::plan_of(exec, args).fits();
}

void run_moe_few(Exec& exec, const GroupedMoe& args) {
  using namespace moe_few;
  const bool fp8 = args.quantise_activations;
  const Plan p = plan_of(exec, args);
  const auto by = [](int64_t n) { return Divisor::of(static_cast<int>(n)); };
  const auto count = [](int64_t n) { return static_cast<int>(n); };
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
      .claimed = exec.semaphores,
      .parts = mail_of(exec),
      .hidden = mail_of(exec) + p.parts_mail,
      .sums = mail_of(exec) + p.parts_mail + p.hidden_mail,
      .groups = count(p.groups),
      .blocks = count(p.blocks),
      .splits = count(p.splits),
      .units = count(p.units),
      .home = p.home,
      .wide = p.wide,
      .tiles = count(p.tiles),
      .down_blocks = count(p.down_blocks),
      .lengths = count(p.lengths),
      .stretch = count((p.lengths + p.stretches - 1) / p.stretches),
      .by_groups = by(p.groups),
      .by_splits = by(p.splits),
      .by_item = by(p.wide ? p.tiles / 2 : p.tiles * p.stretches),
      .by_stretches = by(p.stretches),
      .by_subs = by(p.subs),
      .ue8m0 = args.ue8m0,
  };
  const size_t shared = fp8 ? sizeof(SharedStorage<true>) : sizeof(SharedStorage<false>);
  cuda::launch(
      exec,
      "grouped_moe",
      {.grid = dim3(static_cast<unsigned>(cuda::multiprocessors(exec.device.index))),
       .threads = kThreads,
       .shared_bytes = static_cast<int>(shared)},
      fp8 ? both_products<true> : both_products<false>,
      a
  );
}

}  // namespace fathom::ops
