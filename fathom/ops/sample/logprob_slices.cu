// A CTA takes 4096 logits of a row into registers: their maximum, the sum of exponentials below it,
// their likeliest one after another. The last CTA of a row to be done joins them.
#include "fathom/ops/sample/logprob_slices.h"

#include <algorithm>

#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/sample/sample_device.cuh"

namespace fathom::ops {
namespace {

using sampling::Best;

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kEach = 16;  // logits of a thread
constexpr int kSlice = kThreads * kEach;
constexpr int kShared = 2048;  // likeliest of all slices that are joined in shared memory

// The exponentials of some logits: exp(largest) * sum.
struct Mass {
  float largest, sum;
};

struct Arguments {
  const float* logits;
  int64_t stride;
  int vocab, slices, likeliest;
  bool wide;
  const int32_t* token;
  float* logprob;
  int32_t* top_token;
  float* top_logprob;
  Mass* masses;      // [rows][slices]
  Best* candidates;  // [rows][slices][likeliest]
  uint32_t* arrivals;
};

struct SharedStorage {
  float sums[kWarps];
  Best best[kWarps];
  bool last;
  Best candidates[kShared];
};

__device__ float block_max(float v, SharedStorage& s) {
  v = device::warp_max(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) s.sums[threadIdx.x / 32] = v;
  __syncthreads();
  float most = s.sums[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) most = fmaxf(most, s.sums[w]);
  __syncthreads();
  return most;
}

// The best of the CTA's threads, in all of them.
__device__ Best block_best(Best best, SharedStorage& s) {
  best = sampling::best_of_warp(best);
  __syncthreads();
  if (threadIdx.x % 32 == 0) s.best[threadIdx.x / 32] = best;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; ++w) best.take(s.best[w]);
  return best;
}

// What is subtracted before exponentials: of nothing but -inf, nothing.
__device__ __forceinline__ float shift_of(float largest) {
  return largest == -INFINITY ? 0.0f : largest;
}

__device__ __forceinline__ bool is_behind(float z, int i, Best best) {
  return z < best.value || (z == best.value && i > best.index);
}

// This thread's logits; ascending.
struct Slice {
  float z[kEach];

  static __device__ __forceinline__ int token(int j) {
    const int vector = static_cast<int>(blockIdx.x * kSlice / 4 + threadIdx.x) + j / 4 * kThreads;
    return vector * 4 + j % 4;
  }
  __device__ __forceinline__ void load(const float* row, const Arguments& a) {
#pragma unroll
    for (int j = 0; j < kEach; j += 4) {
      if (a.wide && token(j) + 4 <= a.vocab) {
        const float4 v = __ldcg(reinterpret_cast<const float4*>(row + token(j)));
        z[j] = v.x;
        z[j + 1] = v.y;
        z[j + 2] = v.z;
        z[j + 3] = v.w;
      } else {
#pragma unroll
        for (int i = j; i < j + 4; ++i)
          z[i] = token(i) < a.vocab ? __ldcg(row + token(i)) : -INFINITY;
      }
    }
  }
  __device__ __forceinline__ Mass mass(SharedStorage& s) const {
    float most = z[0], sum = 0;
#pragma unroll
    for (int j = 1; j < kEach; ++j) most = fmaxf(most, z[j]);
    most = block_max(most, s);
#pragma unroll
    for (int j = 0; j < kEach; ++j) sum += __expf(z[j] - shift_of(most));
    return {most, device::block_sum<kWarps>(sum, s.sums)};
  }
  __device__ __forceinline__ Best best_behind(Best last) const {
    Best next;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (is_behind(z[j], token(j), last)) next.see(z[j], token(j));
    }
    return next;
  }
};

// By the last CTA: the logarithm of the row's sum, in all threads.
__device__ float join(const Mass* masses, int slices, SharedStorage& s) {
  const int thread = static_cast<int>(threadIdx.x);
  float most = -INFINITY, sum = 0;
  for (int i = thread; i < slices; i += kThreads) most = fmaxf(most, __ldcg(&masses[i].largest));
  most = block_max(most, s);
  for (int i = thread; i < slices; i += kThreads)
    sum += __ldcg(&masses[i].sum) * __expf(__ldcg(&masses[i].largest) - shift_of(most));
  return most + logf(device::block_sum<kWarps>(sum, s.sums));
}

// By the last CTA: the row's likeliest of all slices'.
__device__ void join_likeliest(const Arguments& a, int64_t row, float log_sum, SharedStorage& s) {
  const int n = a.slices * a.likeliest, thread = static_cast<int>(threadIdx.x);
  const Best* of_row = a.candidates + row * n;
  const bool fits = n <= kShared;
  const auto candidate = [&](int i) {
    return Best{__ldcg(&of_row[i].value), __ldcg(&of_row[i].index)};
  };
  for (int i = thread; fits && i < n; i += kThreads) s.candidates[i] = candidate(i);
  __syncthreads();
  Best last{INFINITY, -1};
  for (int k = 0; k < a.likeliest; ++k) {
    Best next;
    for (int i = thread; i < n; i += kThreads) {
      const Best c = fits ? s.candidates[i] : candidate(i);
      if (is_behind(c.value, c.index, last)) next.take(c);
    }
    last = block_best(next, s);
    if (thread > 0) continue;
    a.top_token[row * a.likeliest + k] = last.index;
    a.top_logprob[row * a.likeliest + k] = last.value - log_sum;
  }
}

__global__ void __launch_bounds__(kThreads) logprobs(const Arguments a) {
  __shared__ SharedStorage s;
  device::launch_successor();
  device::wait_for_predecessor();
  const int64_t row = blockIdx.y;
  const float* logits = a.logits + row * a.stride;
  Slice slice;
  slice.load(logits, a);
  const Mass mass = slice.mass(s);
  Best best{INFINITY, -1};
  for (int k = 0; k < a.likeliest; ++k) {
    best = block_best(slice.best_behind(best), s);
    if (threadIdx.x > 0) continue;
    Best* to = a.candidates + ((row * a.slices + blockIdx.x) * a.likeliest + k);
    __stcg(&to->value, best.value);
    __stcg(&to->index, best.index);
  }
  if (threadIdx.x == 0) {
    Mass* to = a.masses + row * a.slices + blockIdx.x;
    __stcg(&to->largest, mass.largest);
    __stcg(&to->sum, mass.sum);
    s.last = device::arrive_counter(a.arrivals + row) == static_cast<uint32_t>(a.slices - 1);
    if (s.last) a.arrivals[row] = 0;
  }
  __syncthreads();
  if (!s.last) return;
  const float log_sum = join(a.masses + row * a.slices, a.slices, s);
  if (threadIdx.x == 0 && a.logprob != nullptr) a.logprob[row] = logits[a.token[row]] - log_sum;
  if (a.likeliest > 0) join_likeliest(a, row, log_sum, s);
}

template <class T>
T* pointer(const Tensor& t) {
  return t.defined() ? static_cast<T*>(t.data) : nullptr;
}

// As many rows as there are semaphores.
void run(Exec& exec, std::string_view op, const LogprobSlices& args) {
  const int64_t rows = args.logits.dim(0), vocab = args.logits.dim(1);
  const int64_t slices = (vocab + kSlice - 1) / kSlice;
  const int64_t likeliest = args.top_token.defined() ? args.top_token.dim(1) : 0;
  Workspace::Mark mark(*exec.workspace);
  static_assert(sizeof(Mass) == sizeof(int64_t) && sizeof(Best) == sizeof(int64_t));
  const auto alloc = [&](int64_t n) { return exec.workspace->alloc(DType::i64, {n}).data; };
  const Arguments a{
      .logits = args.logits.as<float>(),
      .stride = args.logits.stride(0),
      .vocab = static_cast<int>(vocab),
      .slices = static_cast<int>(slices),
      .likeliest = static_cast<int>(likeliest),
      .wide =
          args.logits.stride(0) % 4 == 0 && reinterpret_cast<uintptr_t>(args.logits.data) % 16 == 0,
      .token = args.token.as<int32_t>(),
      .logprob = pointer<float>(args.logprob),
      .top_token = pointer<int32_t>(args.top_token),
      .top_logprob = pointer<float>(args.top_logprob),
      .masses = static_cast<Mass*>(alloc(rows * slices)),
      .candidates = static_cast<Best*>(alloc(rows * slices * likeliest)),
      .arrivals = exec.semaphores,
  };
  const dim3 grid(static_cast<unsigned>(slices), static_cast<unsigned>(rows));
  cuda::launch(exec, op, {.grid = grid, .threads = kThreads}, logprobs, a);
}

}  // namespace

void logprob_slices(Exec& exec, std::string_view op, const LogprobSlices& args) {
  const auto part = [&](const Tensor& t, int64_t from, int64_t n) {
    return t.defined() ? t.slice(0, from, n) : t;
  };
  const int64_t B = args.logits.dim(0);
  for (int64_t from = 0; from < B; from += Exec::kSemaphoreWords) {
    const int64_t n = std::min<int64_t>(B - from, Exec::kSemaphoreWords);
    run(exec,
        op,
        {.logits = part(args.logits, from, n),
         .token = part(args.token, from, n),
         .logprob = part(args.logprob, from, n),
         .top_token = part(args.top_token, from, n),
         .top_logprob = part(args.top_logprob, from, n)});
  }
}

}  // namespace fathom::ops
