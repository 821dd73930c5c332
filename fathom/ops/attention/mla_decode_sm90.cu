// mla_decode, row sm90: BF16 latent of 512 + 64. docs/kernels/mla_decode.md.
//
// 16 or 32 heads a CTA: a block of 64 positions is WGMMA's 64-row operand A in both products, the
// query heads its narrow operand B (absorbed attention: the 512 latent values of a key are also its
// value):
//   S^T [64 positions, Heads] = K Q^T          K as it lies: rows of positions
//   O^T [512, Heads]         += V^T P^T        the same bytes read transposed, 64 dims at a time
// 64 heads: the heads are operand A (mla_wide_sm90.cuh).
// A CTA runs one part of the units (mla_split.cuh) for one group of heads:
//   producers  panels of 64 positions x 64 dims, nine a block, through a ring of panels: by TMA
//              where a page holds whole boxes of 8 rows (64 heads: mla_wide_boxes_sm90.cuh), else
//              row by row with cp.async; FP8 rows become F16 on the way (mla_codes_sm90.cuh), of 64
//              heads only as operands (mla_code_consumer_sm90.cuh)
//   consumers  one warpgroup; two with 64 heads
// then the parts of a query are put together (mla_letters.cuh; 64 heads: mla_combine.cuh).
#include <type_traits>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/core/device_words.h"
#include "fathom/ops/attention/mla_code_boxes_sm90.cuh"
#include "fathom/ops/attention/mla_code_consumer_sm90.cuh"
#include "fathom/ops/attention/mla_consumer_sm90.cuh"
#include "fathom/ops/attention/mla_decode_rows.h"
#include "fathom/ops/attention/mla_ring_sm90.cuh"
#include "fathom/ops/attention/mla_wide_boxes_sm90.cuh"
#include "fathom/ops/attention/mla_wide_sm90.cuh"

namespace fathom::ops {
namespace {

using device::TensorMap;
using mla::Arguments;
using mla::Consumer;
using mla::Cut;
using mla::kBlock;
using mla::kLatent;
using mla::kRope;
using mla::kWarpgroup;
using mla::Producer;
using mla::SharedStorage;

// Which panels of a block a producing warp brings; 64 heads: what is let go together.
struct Panels {
  int first, count;
};
template <int Heads>
__device__ __forceinline__ Panels panels_of(int warp) {
  if constexpr (Heads == 64) {
    constexpr int kHalf = mla::kLatentPanels / 2;
    return warp < 2 ? Panels{1 + warp * kHalf, kHalf} : Panels{0, 1};
  } else {
    return {3 * warp, 3};
  }
}

// How keys come into the ring.
enum class Feed { boxes, rows, codes, code_boxes };
constexpr bool of_codes(Feed feed) {
  return feed == Feed::codes || feed == Feed::code_boxes;
}

constexpr bool of_boxes(Feed feed) {
  return feed == Feed::boxes || feed == Feed::code_boxes;
}
// FP8 rows that producers turn into F16.
template <int Heads, Feed kFeed>
constexpr bool kConverted = of_codes(kFeed) && Heads < 64;

template <int Heads, Feed kFeed>
using StorageOf =
    std::conditional_t<of_codes(kFeed) && Heads == 64, mla::CodeStorage, SharedStorage<Heads>>;

// Threads that bring keys, and arrivals that make a panel full.
struct Producers {
  int threads, arrivals;
};
template <int Heads, Feed kFeed>
constexpr Producers producers() {
  if constexpr (!kConverted<Heads, kFeed>) {
    return {kWarpgroup, of_boxes(kFeed) ? 1 : kWarpgroup};
  } else if constexpr (of_boxes(kFeed)) {
    return {mla::CodeBoxes<Heads>::kThreads, mla::CodeBoxes<Heads>::kArrivals};
  } else {
    return {mla::CodeProducer<Heads>::kThreads, mla::CodeProducer<Heads>::kThreads / 32};
  }
}
template <int Heads, Feed kFeed>
constexpr int kThreads = StorageOf<Heads, kFeed>::kConsumers + producers<Heads, kFeed>().threads;

template <Feed kFeed>
using Wide = std::conditional_t<
    of_codes(kFeed),
    mla::WideCodeConsumer<of_boxes(kFeed)>,
    mla::WideConsumer<of_boxes(kFeed)>>;

// What puts parts together, and its scratch over the ring that nobody needs any more.
template <int Heads, Feed kFeed>
struct Together {
  using Letters = mla::NarrowLetters<Heads, of_codes(kFeed)>;
  using Scratch = typename Letters::Scratch;
  static_assert(mla::kMaxParts * 2 * Letters::kWords <= kMailWords);
  static __device__ __forceinline__ Letters
  of(const Arguments& a, SharedStorage<Heads>& s, const Cut& cut, int group) {
    static_assert(sizeof(Scratch) <= sizeof(s.panel));
    return {
        a.output,
        a.mail,
        cut,
        *reinterpret_cast<Scratch*>(s.panel),
        a.groups,
        group,
        a.step.first_query};
  }
};
template <Feed kFeed>
struct Together<64, kFeed> {
  using Scratch = mla::CombineScratch<64>;
  static __device__ __forceinline__ typename Wide<kFeed>::Together of(
      const Arguments& a, StorageOf<64, kFeed>& s, const Cut& cut, int group
  ) {
    static_assert(sizeof(Scratch) <= sizeof(s.panel));
    return {
        a.output,
        a.partials,
        cut,
        *reinterpret_cast<Scratch*>(s.panel),
        a.groups,
        group,
        a.step.first_query};
  }
};

template <int Heads, Feed kFeed>
__global__ void __launch_bounds__(kThreads<Heads, kFeed>, 1) decode(
    const Arguments a,
    const __grid_constant__ TensorMap q_latent,
    const __grid_constant__ TensorMap q_rope,
    const __grid_constant__ TensorMap kv,
    const __grid_constant__ TensorMap second_kv  // scales of FP8 rows; 64 heads: single panels
) {
  extern __shared__ __align__(1024) uint8_t memory[];
  using Storage = StorageOf<Heads, kFeed>;
  static_assert(sizeof(Storage) <= 227 * 1024);
  auto& s = *reinterpret_cast<Storage*>(memory);
  if (threadIdx.x == Storage::kConsumers) {
    device::prefetch_map(q_latent);
    device::prefetch_map(q_rope);
    if constexpr (of_boxes(kFeed)) device::prefetch_map(kv);
    if constexpr (kFeed == Feed::code_boxes || (kFeed == Feed::boxes && Heads == 64))
      device::prefetch_map(second_kv);
    for (int i = 0; i < Storage::kRing; ++i) {
      s.full[i].init(producers<Heads, kFeed>().arrivals);
      s.empty[i].init(Storage::readers(i) * static_cast<uint32_t>(a.cluster));  // in each CTA
    }
    if constexpr (Heads < 64) {
      for (auto& raw : s.raw[0]) raw.init(1);
      for (auto& raw : s.raw[1]) raw.init(1);
    }
    s.q_full.init(1);
    s.q_empty.init(Storage::kConsumers / 32);
    device::fence_barrier_init();
  }
  const auto group = static_cast<int>(blockIdx.x), part = static_cast<int>(blockIdx.y);
  mla::make_plan(a.step, a.parts, part, s.plan);
  a.cluster > 1 ? device::cluster_barrier() : __syncthreads();
  const Cut cut(s.plan, a.step.queries);
  auto together = Together<Heads, kFeed>::of(a, s, cut, group);
  constexpr bool kHelped = Heads < 64 && !of_codes(kFeed);  // by the producers, to add up
  if (threadIdx.x < Storage::kConsumers) {
    // 232 and 40 (256 and 128 threads), 224 and 56: as many as the launch gave, 168 x 384.
    if constexpr (Heads == 64) device::take_registers<of_codes(kFeed) ? 232 : 224>();
    if constexpr (kConverted<Heads, kFeed>) device::take_registers<240>();
    if constexpr (Heads == 64) {
      Wide<kFeed>{a, s, cut, part, group}.run(together);
      together.end(part, a.parts.most.by);
    } else {
      Consumer<Heads, of_codes(kFeed)>{a, s, cut, part, group}.run(together);
      if constexpr (!kHelped) together.end(part, a.parts.most.by, s.shares);
    }
  } else {
    if constexpr (Heads == 64) device::release_registers<of_codes(kFeed) ? 40 : 56>();
    if constexpr (kConverted<Heads, kFeed>) device::release_registers<128>();
    constexpr int kLoaders = 3;  // warps
    const int warp = static_cast<int>(threadIdx.x - Storage::kConsumers) / 32;
    const Panels own = panels_of<Heads>(warp);
    Producer<Heads, Storage> producer{
        a, s, cut, part, group, q_latent, q_rope, own.first, own.count};
    if constexpr (kConverted<Heads, kFeed> && of_boxes(kFeed)) {
      mla::CodeBoxes<Heads>{producer, kv, second_kv}.run();
    } else if constexpr (kConverted<Heads, kFeed>) {
      mla::CodeProducer<Heads>{producer}.run();
    } else if constexpr (kFeed == Feed::codes) {
      mla::WideCodes{producer}.run_rows();
    } else if constexpr (kFeed == Feed::rows) {
      producer.run_rows();
    } else if (warp < kLoaders) {
      if constexpr (kFeed == Feed::code_boxes) {
        mla::WideCodes{producer}.run_boxes(kv, second_kv, warp);
      } else if constexpr (Heads == 64) {
        mla::WideBoxes{producer, kv, second_kv}.run();
      } else {
        producer.run_boxes(kv);
      }
    } else {
      if constexpr (Heads < 64) producer.ask_for_first();
      device::wait_for_predecessor();
      producer.load_first_query();
    }
  }
  if constexpr (kHelped) {
    __syncwarp();
    together.end(part, a.parts.most.by, s.shares);
  }
  if (a.cluster > 1) {
    __syncwarp();
    device::cluster_barrier();  // the other may still send and let go
  }
}

// q_latent or q_rope [T, H, D] in boxes of one panel's dims of one group's heads.
TensorMap query_map(const Tensor& q, int heads) {
  return cuda::make_tensor_map({
      .data = q.data,
      .dtype = DType::bf16,
      .rank = 3,
      .dims =
          {static_cast<uint64_t>(q.dim(2)),
           static_cast<uint64_t>(q.dim(1)),
           static_cast<uint64_t>(q.dim(0))},
      .stride_bytes =
          {static_cast<uint64_t>(2 * q.stride(1)), static_cast<uint64_t>(2 * q.stride(0))},
      .box = {64, static_cast<uint32_t>(heads), 1},
  });
}

bool page_of_boxes(int64_t page) {
  return page == 8 || page == 16 || page == 32 || page % kBlock == 0;
}

// Boxes of `columns` elements.
TensorMap cache_map(const Tensor& kv, int rows, uint32_t columns, cuda::Swizzle swizzle) {
  const auto size = static_cast<uint64_t>(info(kv.dtype).block_bytes);
  return cuda::make_tensor_map({
      .data = kv.data,
      .dtype = kv.dtype,
      .rank = 3,
      .dims =
          {static_cast<uint64_t>(kv.dim(2)),
           static_cast<uint64_t>(kv.dim(1)),
           static_cast<uint64_t>(kv.dim(0))},
      .stride_bytes =
          {size * static_cast<uint64_t>(kv.stride(1)), size * static_cast<uint64_t>(kv.stride(0))},
      .box = {columns, static_cast<uint32_t>(rows), 1},
      .swizzle = swizzle,
  });
}

// Boxes of `panels` panels of `rows` positions, one panel after the other.
TensorMap panel_map(const Tensor& kv, int rows, int panels) {
  return cuda::make_tensor_map({
      .data = kv.data,
      .dtype = kv.dtype,
      .rank = 4,
      .dims =
          {64, static_cast<uint64_t>(kv.dim(1)), mla::kPanels, static_cast<uint64_t>(kv.dim(0))},
      .stride_bytes =
          {static_cast<uint64_t>(2 * kv.stride(1)), 128, static_cast<uint64_t>(2 * kv.stride(0))},
      .box = {64, static_cast<uint32_t>(rows), static_cast<uint32_t>(panels), 1},
  });
}

template <int Heads>
void run(Exec& exec, const MlaDecode& args) {
  constexpr float kLog2e = 1.44269504f;
  const int heads = static_cast<int>(args.q_latent.dim(1));
  const int groups = (heads + Heads - 1) / Heads;
  const int parts = cuda::multiprocessors(exec.device.index) / groups;
  const int64_t page = args.kv.dim(1);
  const bool codes = args.kv.dtype == DType::u8, boxes = page_of_boxes(page);
  const int cluster = boxes && !codes && Heads == 64 && groups % 2 == 0 ? 2 : 1;
  int most_rows = kBlock;
  if constexpr (Heads < 64) most_rows = codes ? mla::CodeBoxes<Heads>::kRows : kBlock;
  const int box_rows = boxes ? static_cast<int>(std::min<int64_t>(page, most_rows)) : 1;
  const bool lse = args.lse.defined();
  Workspace::Mark mark(*exec.workspace);
  mla::Partials partials{};
  if (Heads == 64) {
    const int64_t slots = int64_t{2} * parts * groups;
    partials.sums = exec.workspace->alloc(DType::f16, {slots, kLatent, Heads}).data;
    partials.statistics =
        static_cast<float2*>(exec.workspace->alloc(DType::f32, {slots, Heads, 2}).data);
    partials.arrivals = exec.semaphores;
  }
  Arguments a{
      .step = mla::step_of(args),
      .output =
          {.out = static_cast<__nv_bfloat16*>(args.out.data),
           .lse = lse ? args.lse.as<float>() : nullptr,
           .token_stride = args.out.stride(0),
           .head_stride = args.out.stride(1),
           .lse_stride = lse ? args.lse.stride(0) : 0,
           .heads = heads},
      .partials = partials,
      .mail = mail_of(exec),
      .kv = static_cast<const uint8_t*>(args.kv.data),
      .page_bytes = info(args.kv.dtype).block_bytes * args.kv.stride(0),
      .row_bytes = info(args.kv.dtype).block_bytes * args.kv.stride(1),
      .groups = groups,
      .parts = {},
      .page = device::Divisor::of(static_cast<int>(page)),
      .box_rows = box_rows,
      .cluster = cluster,
      .scale = args.scale * kLog2e,
  };
  const TensorMap q_latent = query_map(args.q_latent, Heads);
  const TensorMap q_rope = query_map(args.q_rope, Heads);
  using cuda::Swizzle;
  TensorMap kv{}, second_kv{};
  if (boxes && codes) {
    kv = cache_map(args.kv, box_rows, 128, Swizzle::bytes128);
    second_kv = cache_map(args.kv, box_rows, 16, Swizzle::none);
  } else if (boxes && Heads == 64) {
    kv = panel_map(args.kv, box_rows, 2);
    second_kv = panel_map(args.kv, box_rows, 1);
  } else if (boxes) {
    kv = cache_map(args.kv, box_rows, 64, Swizzle::bytes128);
  }
  const int tokens = static_cast<int>(args.q_latent.dim(0));
  for (int first = 0; first < tokens; first += mla::kMaxQueries) {
    a.step.first_query = first;
    a.step.queries = std::min(tokens - first, mla::kMaxQueries);
    a.parts = mla::Parts(parts, a.step.queries);
    const auto launch = [&]<Feed kFeed>() {
      cuda::launch(
          exec,
          "mla_decode",
          {.grid = dim3(static_cast<unsigned>(groups), static_cast<unsigned>(parts)),
           .threads = kThreads<Heads, kFeed>,
           .shared_bytes = sizeof(StorageOf<Heads, kFeed>),
           .cluster = cluster},
          decode<Heads, kFeed>,
          a,
          q_latent,
          q_rope,
          kv,
          second_kv
      );
    };
    if (codes && boxes) {
      launch.template operator()<Feed::code_boxes>();
    } else if (codes) {
      launch.template operator()<Feed::codes>();
    } else if (boxes) {
      launch.template operator()<Feed::boxes>();
    } else {
      launch.template operator()<Feed::rows>();
    }
  }
}

// 16 bytes at once, also by boxes.
bool boxes_can_read(const Tensor& t) {
  const int64_t elements = 16 / info(t.dtype).block_bytes;
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) % elements == 0 &&
         t.stride(1) % elements == 0;
}

}  // namespace

bool mla_decode_takes_sm90(const Exec& exec, const MlaDecode& args) {
  constexpr int64_t kMaxHeads = 256;
  const int processors = cuda::multiprocessors(exec.device.index);
  return args.q_latent.dtype == DType::bf16 &&
         (args.kv.dtype == DType::bf16 || args.kv.dtype == DType::u8) &&
         args.q_latent.dim(2) == kLatent && args.q_rope.dim(2) == kRope && args.scale > 0 &&
         args.q_latent.dim(1) <= kMaxHeads && boxes_can_read(args.q_latent) &&
         boxes_can_read(args.q_rope) && boxes_can_read(args.kv) && boxes_can_read(args.out) &&
         processors <= mla::kMaxParts && args.first == 0 && args.mask_lead == 0;
}

void mla_decode_sm90(Exec& exec, const MlaDecode& args) {
  if (args.q_latent.dim(0) == 0) return;
  // Many heads a CTA: fewer reads of the keys and more work on each. Few: more CTAs, which is what
  // counts as long as the blocks of all keys do not fill the device.
  const int64_t heads = args.q_latent.dim(1);
  // The page tables of a step may have room for more than it holds; then a usual context is meant,
  // unless there is room for a long one.
  constexpr int64_t kUsualContext = 2048;
  const int64_t known = args.rows.pages.dim(0) * args.kv.dim(1);
  const int64_t usual = args.rows.kv_len.dim(0) * kUsualContext;
  const int64_t keys = known > 16 * usual ? known : std::min(known, usual);
  const int64_t blocks = std::max<int64_t>(1, keys / kBlock);
  const int64_t most_groups = cuda::multiprocessors(exec.device.index) / blocks;
  if (heads <= 16 || heads <= 16 * most_groups) return run<16>(exec, args);
  if (heads <= 32 || heads <= 32 * most_groups) return run<32>(exec, args);
  run<64>(exec, args);
}

}  // namespace fathom::ops
