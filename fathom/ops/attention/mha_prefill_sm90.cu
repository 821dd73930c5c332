// mha_prefill, row sm90: WGMMA, BF16, paged keys and values by TMA. docs/kernels/mha_prefill.md.
//
// Keys of D elements, values of Dv: 64, 128, or the expanded form of MLA, 192 and 128. As many CTAs
// as multiprocessors take tiles of queries (prefill_tiles.cuh) until none are left. In each, four
// warps bring blocks of 128 keys and values (prefill_ring_sm90.cuh), and consumer
// warpgroups of 64 queries compute (prefill_consumer_sm90.cuh).
#include <bit>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/mha_prefill_rows.h"
#include "fathom/ops/attention/prefill_consumer_sm90.cuh"

namespace fathom::ops {
namespace {

using namespace prefill;

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) attend(
    const Arguments a,
    const __grid_constant__ TensorMap keys,
    const __grid_constant__ TensorMap values,
    const __grid_constant__ TensorMap q,
    const __grid_constant__ TensorMap y
) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Shape>*>(memory);
  if (threadIdx.x == 0) {
    device::prefetch_map(keys);
    device::prefetch_map(values);
    device::prefetch_map(q);
    device::prefetch_map(y);
    s.init();
  }
  device::launch_successor();
  __syncthreads();
  if (threadIdx.x >= Shape::kConsumers) {
    device::release_registers<Shape::kProducerRegisters>();
    Producer<Shape>{a, s, keys, values}.run();
  } else {
    device::take_registers<Shape::kConsumerRegisters>();
    Consumer<Shape>{a, s, q, y}.run();
  }
}

cuda::TensorMap page_map(const Tensor& cache) {
  const int64_t heads = cache.dim(1), page = cache.dim(2), D = cache.dim(3);
  return cuda::make_tensor_map({
      .data = cache.data,
      .dtype = DType::bf16,
      .rank = 4,
      .dims =
          {static_cast<uint64_t>(D),
           static_cast<uint64_t>(page),
           static_cast<uint64_t>(heads),
           static_cast<uint64_t>(cache.dim(0))},
      .stride_bytes =
          {static_cast<uint64_t>(2 * cache.stride(2)),
           static_cast<uint64_t>(2 * cache.stride(1)),
           static_cast<uint64_t>(2 * cache.stride(0))},
      .box = {64, static_cast<uint32_t>(page), 1, 1},
      .swizzle = cuda::Swizzle::bytes128,
  });
}

// Of q or y, [tokens, heads, D]: boxes of 64 queries, all heads of a key head of some tokens.
cuda::TensorMap query_map(const Tensor& rows, int64_t group) {
  const int64_t heads = rows.dim(1), D = rows.dim(2);
  return cuda::make_tensor_map({
      .data = rows.data,
      .dtype = DType::bf16,
      .rank = 3,
      .dims =
          {static_cast<uint64_t>(D),
           static_cast<uint64_t>(heads),
           static_cast<uint64_t>(rows.dim(0))},
      .stride_bytes = {static_cast<uint64_t>(2 * D), static_cast<uint64_t>(2 * rows.stride(0))},
      .box = {64, static_cast<uint32_t>(group), static_cast<uint32_t>(64 / group)},
      .swizzle = cuda::Swizzle::bytes128,
  });
}

// x / group is x times this, shifted, where x * group < 2^kInverseBits.
uint32_t inverse_of(int64_t group) {
  return static_cast<uint32_t>(((int64_t{1} << kInverseBits) + group - 1) / group);
}

// Into how many sets to part the key heads, so that a set's keys and values stay in the L2.
int sets_of(const PagedAttention& args) {
  constexpr int64_t kCached = int64_t{24} << 20;
  const int64_t heads = args.keys.dim(1);
  const int64_t row = args.max_kv_len * (args.keys.dim(3) + args.values.dim(3)) * 2;
  return static_cast<int>(std::clamp<int64_t>((heads * row + kCached - 1) / kCached, 1, heads));
}

template <class Shape>
void run(Exec& exec, const PagedAttention& args) {
  const int64_t group = args.q.dim(1) / args.keys.dim(1);
  const Arguments a{
      .rows = attention::rows_of(args.rows),
      .q = static_cast<const __nv_bfloat16*>(args.q.data),
      .sinks = args.sinks.defined() ? args.sinks.as<float>() : nullptr,
      .y = static_cast<__nv_bfloat16*>(args.y.data),
      .lse = args.lse.defined() ? args.lse.as<float>() : nullptr,
      .counter = exec.semaphores,
      .q_stride = args.q.stride(0),
      .y_stride = args.y.stride(0),
      .lse_stride = args.lse.defined() ? args.lse.stride(0) : 0,
      .key_heads = static_cast<int>(args.keys.dim(1)),
      .sets = sets_of(args),
      .group = static_cast<int>(group),
      .window = static_cast<int>(args.window),
      .log2_page = std::countr_zero(static_cast<uint64_t>(args.keys.dim(2))),
      .inverse_group = inverse_of(group),
      .causal = args.causal,
      .boxes = 64 % group == 0,
      .scale = args.scale * kLog2e,
  };
  // Each row's last tile may be short.
  const int64_t most_tiles =
      (args.q.dim(0) * a.group / Shape::kQueries + a.rows.count) * a.key_heads;
  const int64_t ctas = std::min<int64_t>(cuda::multiprocessors(exec.device.index), most_tiles);
  const TensorMap keys = page_map(args.keys);
  cuda::launch(
      exec,
      "mha_prefill",
      {.grid = dim3(static_cast<unsigned>(ctas)),
       .threads = Shape::kThreads,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<Shape>))},
      attend<Shape>,
      a,
      keys,
      page_map(args.values),
      a.boxes ? query_map(args.q, group) : keys,
      a.boxes ? query_map(args.y, group) : keys
  );
}

bool aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) % 8 == 0;
}

}  // namespace

bool mha_prefill_takes_sm90(const Exec&, const PagedAttention& args) {
  const int64_t D = args.q.dim(2), Dv = args.values.dim(3), page = args.keys.dim(2);
  const bool dims = (D == Dv && (D == 64 || D == 128)) || (D == 192 && Dv == 128);
  return dims && (args.causal || args.window == 0) && args.q.dtype == DType::bf16 &&
         args.keys.dtype == DType::bf16 && page % 8 == 0 && kKeys % page == 0 &&
         args.keys.dim(1) < 65536 && args.q.dim(1) <= kMostGroup * args.keys.dim(1) &&
         aligned(args.q) && aligned(args.y) && aligned(args.keys) && aligned(args.values);
}

void mha_prefill_sm90(Exec& exec, const PagedAttention& args) {
  // Turns pay where the exponentials weigh as much as the products.
  if (args.q.dim(2) == 64) return run<Shape<64, 64, 3, Slots{4, 4, 1}, true>>(exec, args);
  if (args.q.dim(2) == 128) return run<Shape<128, 128, 2, Slots{3, 2, 2}, false>>(exec, args);
  run<Shape<192, 128, 2, Slots{2, 2, 1}, false>>(exec, args);
}

}  // namespace fathom::ops
