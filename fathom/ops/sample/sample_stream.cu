// sample, row cuda_stream: many rows. A CTA a row reads the logits once and keeps those that may be
// among its top_k, at most 512 of them: whatever reaches the top_k-th of what it has seen. Rows of
// other laws, and those of too many equal logits, are left to the clusters of cuda_law behind it.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/sample/sample_candidates.cuh"
#include "fathom/ops/sample/sample_law.cuh"
#include "fathom/ops/sample/sample_rows.h"

namespace fathom::ops {
namespace {

using sampling::Best;
using sampling::kThreads;

constexpr int kVectors = 4;                      // of a thread in a batch
constexpr int kBatch = kThreads * 4 * kVectors;  // logits
constexpr int kKept = 1024;                      // candidates between two batches, at most
constexpr int kFirst = kThreads * 4;             // logits of the first, small batch
constexpr uint32_t kMostTopK = 512;

struct Arguments {
  sampling::LawArguments law;
  uint8_t* left;  // [rows]: 1 where a row is left to cuda_law
};

struct StreamStorage {
  uint32_t key[kKept + kBatch];  // of a logit, ordered as it is
  int32_t id[kKept + kBatch];
  uint32_t bin[256];
  int count, compact;
  uint32_t digit, above;
  float threshold;
  Best best[sampling::kWarps];
  sampling::SharedStorage law;
};

__device__ __forceinline__ uint32_t key_of(float v) {
  const uint32_t bits = __float_as_uint(v);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}
__device__ __forceinline__ float logit_of(uint32_t key) {
  return __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

// By the first warp: the digit in which the bins from the highest down reach `goal`, and what lies
// above it.
__device__ void find_digit(StreamStorage& s, uint32_t goal) {
  const int lane = static_cast<int>(threadIdx.x), high = 255 - 8 * lane;
  uint32_t own = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) own += s.bin[high - i];
  uint32_t with = own;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const uint32_t other = __shfl_up_sync(device::kFullWarp, with, d);
    with += lane >= d ? other : 0;
  }
  const uint32_t reached = __ballot_sync(device::kFullWarp, with >= goal);
  if (lane != __ffs(static_cast<int>(reached)) - 1) return;
  uint32_t above = with - own;
  for (int i = 0; i < 8; ++i) {
    const uint32_t here = s.bin[high - i];
    if (above + here >= goal) {
      s.digit = static_cast<uint32_t>(high - i);
      s.above = above;
      return;
    }
    above += here;
  }
}

// The k-th largest of n > k keys.
__device__ uint32_t kth_key(StreamStorage& s, int n, uint32_t k) {
  uint32_t prefix = 0, goal = k;
#pragma unroll 1
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) s.bin[threadIdx.x] = 0;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
      const uint32_t key = s.key[i];
      if (static_cast<uint64_t>(key) >> (shift + 8) == prefix)
        atomicAdd(&s.bin[key >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) find_digit(s, goal);
    __syncthreads();
    prefix = prefix << 8 | s.digit;
    goal -= s.above;
  }
  return prefix;
}

// Leaves the k largest and what may tie with them; `slack`: of logits whose probabilities may be
// the same. By all threads; the number left.
__device__ int compress(StreamStorage& s, uint32_t k, float slack) {
  const int n = s.count;
  if (n <= static_cast<int>(k)) return n;
  const float threshold = logit_of(kth_key(s, n, k)) - slack;
  const uint32_t least = key_of(threshold);
  if (threadIdx.x == 0) {
    s.threshold = threshold;
    s.compact = 0;
  }
  // What is written lies before what is read later.
  for (int from = 0; from < n; from += kThreads) {
    const int i = from + static_cast<int>(threadIdx.x);
    const uint32_t key = i < n ? s.key[i] : 0;
    const int32_t id = i < n ? s.id[i] : 0;
    __syncthreads();
    if (i < n && key >= least) {
      const int to = atomicAdd(&s.compact, 1);
      s.key[to] = key;
      s.id[to] = id;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) s.count = s.compact;
  __syncthreads();
  return s.count;
}

// A thread's logits of a batch: vectors 512 apart. Those outside are -inf.
struct Batch {
  float z[kVectors * 4];

  static __device__ __forceinline__ int token(int from, int j) {
    return from + (j / 4 * kThreads + static_cast<int>(threadIdx.x)) * 4 + j % 4;
  }
  template <int Vectors>
  __device__ __forceinline__ void load(const float* row, int vocab, bool wide, int from) {
#pragma unroll
    for (int j = 0; j < 4 * Vectors; j += 4) {
      if (wide && token(from, j) + 4 <= vocab) {
        const float4 v = __ldcs(reinterpret_cast<const float4*>(row + token(from, j)));
        z[j] = v.x;
        z[j + 1] = v.y;
        z[j + 2] = v.z;
        z[j + 3] = v.w;
      } else {
#pragma unroll
        for (int i = j; i < j + 4; ++i)
          z[i] = token(from, i) < vocab ? __ldcs(row + token(from, i)) : -INFINITY;
      }
    }
  }
  template <int Vectors>
  __device__ __forceinline__ void take(StreamStorage& s, Best& best, int from, bool keeps) const {
    const float threshold = s.threshold;
#pragma unroll
    for (int j = 0; j < 4 * Vectors; ++j) {
      best.see(z[j], token(from, j));
      if (!keeps || !(z[j] >= threshold) || z[j] == -INFINITY) continue;
      const int to = atomicAdd(&s.count, 1);
      s.key[to] = key_of(z[j]);
      s.id[to] = token(from, j);
    }
  }
};

__device__ Best block_best(StreamStorage& s, Best best) {
  best = sampling::best_of_warp(best);
  if (threadIdx.x % 32 == 0) s.best[threadIdx.x / 32] = best;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < sampling::kWarps; ++w) best.take(s.best[w]);
  return best;
}

// Reads the row; false when too many candidates stay. The others are in s.key and s.id.
__device__ bool stream(
    StreamStorage& s, const float* row, int vocab, bool wide, uint32_t k, float slack, Best& best
) {
  if (threadIdx.x == 0) {
    s.count = 0;
    s.threshold = -INFINITY;
  }
  Batch now, next;
  now.load<1>(row, vocab, wide, 0);
  next.load<kVectors>(row, vocab, wide, kFirst);
  __syncthreads();
  now.take<1>(s, best, 0, k > 0);
  __syncthreads();
  if (k > 0 && compress(s, k, slack) > kKept) return false;
#pragma unroll 1
  for (int from = kFirst; from < vocab; from += kBatch) {
    now = next;
    next.load<kVectors>(row, vocab, wide, from + kBatch);
    now.take<kVectors>(s, best, from, k > 0);
    __syncthreads();
    if (s.count > kKept && compress(s, k, slack) > kKept) return false;
    __syncthreads();  // all have seen the count
  }
  return k == 0 || compress(s, k, slack) <= sampling::kCandidates;
}

// The candidates' probabilities, in the order of their ids.
__device__ void order_candidates(StreamStorage& s, float most, float rate) {
  for (int i = static_cast<int>(threadIdx.x); i < s.count; i += kThreads) {
    const int id = s.id[i];
    int rank = 0;
    for (int j = 0; j < s.count; ++j) rank += s.id[j] < id ? 1 : 0;
    s.law.candidates.bits[rank] = __float_as_uint(exp2f((logit_of(s.key[i]) - most) * rate));
    s.law.candidates.id[rank] = id;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads, 2) sample_streams(const Arguments arguments) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto& s = *reinterpret_cast<StreamStorage*>(memory);
  device::launch_successor();
  device::wait_for_predecessor();
  const sampling::LawArguments& a = arguments.law;
  const int row = static_cast<int>(blockIdx.x);
  const bool first = threadIdx.x == 0;
  const float temperature = a.temperature[row];
  const sampling::Cuts cuts{static_cast<uint32_t>(a.top_k[row]), a.top_p[row], a.min_p[row]};
  const bool greedy = temperature == 0, few = cuts.top_k > 0 && cuts.top_k <= kMostTopK &&
                                              cuts.top_k < static_cast<uint32_t>(a.vocab);
  const float* logits = a.logits + row * a.stride;
  const bool wide = a.stride % 4 == 0 && reinterpret_cast<uintptr_t>(a.logits) % 16 == 0;
  Best best;
  const bool done =
      (greedy || few) &&
      stream(s, logits, a.vocab, wide, greedy ? 0 : cuts.top_k, temperature * 0x1p-14f, best);
  if (first) arguments.left[row] = done ? 0 : 1;
  if (!done) return;
  best = block_best(s, best);
  if (!best.healthy() || greedy) {
    if (!first) return;
    a.token[row] = best.healthy() ? best.index : 0;
    a.healthy[row] = best.healthy() ? 1 : 0;
    return;
  }
  order_candidates(s, best.value, sampling::kLog2e / temperature);
  const uint64_t random = sampling::random_bits(
      static_cast<uint64_t>(a.seed[row]), static_cast<uint32_t>(a.position[row])
  );
  int token = 0;
  if (!sampling::draw_candidates(s.law, s.count, 0, cuts, random, token)) return;
  a.token[row] = token;
  a.healthy[row] = 1;
}

constexpr int64_t kManyRows = 64;

}  // namespace

bool sample_takes_cuda_stream(const Exec& exec, const Sample& args) {
  return args.logits.dim(0) >= kManyRows && !args.counts.defined() && !args.bias_begin.defined() &&
         sample_takes_cuda_law(exec, args);
}

void sample_cuda_stream(Exec& exec, const Sample& args) {
  const int64_t rows = args.logits.dim(0);
  Workspace::Mark mark(*exec.workspace);
  const Arguments a{
      .law = sampling::law_arguments(args),
      .left = exec.workspace->alloc(DType::u8, {rows}).as<uint8_t>(),
  };
  cuda::launch(
      exec,
      "sample",
      {.grid = dim3(static_cast<unsigned>(rows)),
       .threads = kThreads,
       .shared_bytes = static_cast<int>(sizeof(StreamStorage))},
      sample_streams,
      a
  );
  sampling::run_law(exec, args, a.left);
}

}  // namespace fathom::ops
