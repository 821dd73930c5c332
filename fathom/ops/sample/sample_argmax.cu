// sample, row argmax: all rows greedy. CTAs share a row; the last to be done takes the best of all.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/sample/sample_device.cuh"
#include "fathom/ops/sample/sample_rows.h"

namespace fathom::ops {
namespace {

using sampling::Best;

constexpr int kThreads = 256;
constexpr int kInFlight = 4;  // vectors of a thread under way

struct Arguments {
  const float* logits;
  int32_t* token;
  uint8_t* healthy;
  Best* partial;       // [rows][CTAs of a row]
  uint32_t* arrivals;  // [rows], zero
  int64_t stride;
  int vocab;
};

// The best of a CTA's threads, in thread 0.
__device__ Best best_of_block(Best best, Best* scratch) {
  best = sampling::best_of_warp(best);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kThreads / 32; ++w) best.take(scratch[w]);
  }
  return best;
}

__global__ void __launch_bounds__(kThreads) argmax(const Arguments a) {
  __shared__ Best scratch[kThreads / 32];
  __shared__ bool last;
  device::launch_successor();
  device::wait_for_predecessor();
  const int row = static_cast<int>(blockIdx.y), ctas = static_cast<int>(gridDim.x);
  const float* logits = a.logits + row * a.stride;
  const int step = ctas * kThreads, thread = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  Best best;
  const bool wide = a.stride % 4 == 0;
  const int vectors = wide ? a.vocab / 4 : 0;
  for (int base = thread; base < vectors; base += step * kInFlight) {
    float4 v[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k)
      v[k] = __ldcg(reinterpret_cast<const float4*>(logits) + min(base + k * step, vectors - 1));
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      const int at = min(base + k * step, vectors - 1) * 4;
      best.see(v[k].x, at);
      best.see(v[k].y, at + 1);
      best.see(v[k].z, at + 2);
      best.see(v[k].w, at + 3);
    }
  }
  for (int i = vectors * 4 + thread; i < a.vocab; i += step) best.see(logits[i], i);
  best = best_of_block(best, scratch);
  if (threadIdx.x == 0) {
    __stcg(&a.partial[row * ctas + blockIdx.x].value, best.value);
    __stcg(&a.partial[row * ctas + blockIdx.x].index, best.index);
    last = device::arrive_counter(a.arrivals + row) == static_cast<uint32_t>(ctas - 1);
    if (last) a.arrivals[row] = 0;
  }
  __syncthreads();
  if (!last) return;
  Best all;
  for (int i = static_cast<int>(threadIdx.x); i < ctas; i += kThreads) {
    const Best* from = a.partial + row * ctas + i;
    all.take({__ldcg(&from->value), __ldcg(&from->index)});
  }
  __syncthreads();
  all = best_of_block(all, scratch);
  if (threadIdx.x == 0) {
    const bool healthy = all.healthy();
    a.token[row] = healthy ? all.index : 0;
    a.healthy[row] = healthy ? 1 : 0;
  }
}

}  // namespace

bool sample_takes_cuda_argmax(const Exec&, const Sample& args) {
  return args.all_greedy && !args.logprob.defined() && !args.top_token.defined() &&
         args.logits.dim(0) <= Exec::kSemaphoreWords;
}

void sample_cuda_argmax(Exec& exec, const Sample& args) {
  const int64_t rows = args.logits.dim(0), vocab = args.logits.dim(1);
  if (rows == 0) return;
  const int64_t most = (vocab + kThreads * 4 - 1) / (kThreads * 4);
  const int64_t room = 4 * cuda::multiprocessors(exec.device.index) / rows;
  const int64_t ctas = std::max<int64_t>(std::min(most, room), 1);
  Workspace::Mark mark(*exec.workspace);
  const Tensor partial = exec.workspace->alloc(DType::i64, {rows, ctas});
  static_assert(sizeof(Best) == sizeof(int64_t));
  const Arguments a{
      .logits = args.logits.as<float>(),
      .token = args.token.as<int32_t>(),
      .healthy = args.healthy.as<uint8_t>(),
      .partial = static_cast<Best*>(partial.data),
      .arrivals = exec.semaphores,
      .stride = args.logits.stride(0),
      .vocab = static_cast<int>(vocab),
  };
  cuda::launch(
      exec,
      "sample",
      {.grid = dim3(static_cast<unsigned>(ctas), static_cast<unsigned>(rows)), .threads = kThreads},
      argmax,
      a
  );
}

}  // namespace fathom::ops
