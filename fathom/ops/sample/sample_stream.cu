// sample, row cuda_stream: many rows. A CTA a row reads the logits once and keeps those that may be
// among its top_k, at most 512 of them: whatever reaches the top_k-th of what it has seen. Rows of
// other laws, and those of too many equal logits, are left to the clusters of cuda_law behind it.
// Each thread copies its own logits through a ring in shared memory, some batches ahead: memory
// does not rest while the candidates are thinned out.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/sample/sample_candidates.cuh"
#include "fathom/ops/sample/sample_law.cuh"
#include "fathom/ops/sample/sample_rows.h"

namespace fathom::ops {
namespace {

using sampling::Best;
using sampling::kThreads;

constexpr int kVectors = 2;                      // of a thread in a batch
constexpr int kBatch = kThreads * 4 * kVectors;  // logits
constexpr int kBatches = 4;                      // in the ring
constexpr int kKept = 1024;                      // candidates between two batches, at most
constexpr uint32_t kMostTopK = 512;

struct Arguments {
  sampling::LawArguments law;
  uint8_t* left;  // [rows]: 1 where a row is left to cuda_law
};

struct alignas(16) StreamStorage {
  uint32_t key[kKept + kBatch];  // of a logit, ordered as it is
  alignas(16) int32_t id[kKept + kBatch];
  uint32_t bin[2][256];  // of one digit; the next one's
  int count, compact;
  uint32_t digit, above;
  float threshold;
  Best best[sampling::kWarps];
  union {
    float4 ring[kBatches][kVectors][kThreads];
    sampling::SharedStorage law;  // of the candidates, behind the last batch
  };
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
__device__ void find_digit(StreamStorage& s, const uint32_t* bins, uint32_t goal) {
  const int lane = static_cast<int>(threadIdx.x), high = 255 - 8 * lane;
  uint32_t bin[8], own = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    bin[i] = bins[high - i];
    own += bin[i];
  }
  uint32_t with = own;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const uint32_t other = __shfl_up_sync(device::kFullWarp, with, d);
    with += lane >= d ? other : 0;
  }
  const uint32_t reached = __ballot_sync(device::kFullWarp, with >= goal);
  if (lane != __ffs(static_cast<int>(reached)) - 1) return;
  uint32_t above = with - own;
  int at = 0;
#pragma unroll
  for (int i = 0; i < 7; ++i) {
    if (at == i && above + bin[i] < goal) {
      above += bin[i];
      ++at;
    }
  }
  s.digit = static_cast<uint32_t>(high - at);
  s.above = above;
}

// What the k-th largest of n > k keys reaches, and few keys that are less: the digits behind are
// not looked at.
__device__ uint32_t kth_key(StreamStorage& s, int n, uint32_t k) {
  const uint32_t few = k + k / 4 + 16;
  const int thread = static_cast<int>(threadIdx.x);
  uint32_t prefix = 0, goal = k;
  if (thread < 256) s.bin[0][thread] = 0;
  __syncthreads();
#pragma unroll 1
  for (int shift = 24, turn = 0;; shift -= 8, turn ^= 1) {
    for (int i = thread; i < n; i += kThreads) {
      const uint32_t key = s.key[i];
      if (static_cast<uint64_t>(key) >> (shift + 8) == prefix)
        atomicAdd(&s.bin[turn][key >> shift & 255], 1u);
    }
    __syncthreads();
    if (thread < 32) find_digit(s, s.bin[turn], goal);
    if (thread >= kThreads - 256) s.bin[turn ^ 1][kThreads - 1 - thread] = 0;
    __syncthreads();
    prefix = prefix << 8 | s.digit;
    goal -= s.above;
    if (shift == 0 || k - goal + s.bin[turn][s.digit] <= few) return prefix << shift;
  }
}

// Leaves the k largest, what may tie with them and few others; `slack`: of logits whose
// probabilities may be the same. By all threads; the number left.
__device__ int compress(StreamStorage& s, uint32_t k, float slack) {
  const int n = s.count;
  if (n <= static_cast<int>(k)) return n;
  // What lies below all numbers is a NaN's key.
  const float threshold = fmaxf(logit_of(kth_key(s, n, k)) - slack, -INFINITY);
  const uint32_t least = max(key_of(threshold), key_of(-INFINITY) + 1);
  if (threadIdx.x == 0) {
    s.threshold = threshold;
    s.compact = 0;
  }
  // What is written lies before what is read later.
  constexpr int kAtOnce = 4;
  for (int from = static_cast<int>(threadIdx.x); from - static_cast<int>(threadIdx.x) < n;
       from += kAtOnce * kThreads) {
    uint32_t key[kAtOnce];
    int32_t id[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = from + j * kThreads;
      key[j] = i < n ? s.key[i] : 0;
      id[j] = i < n ? s.id[i] : 0;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (key[j] < least) continue;  // never 0
      const int to = atomicAdd(&s.compact, 1);
      s.key[to] = key[j];
      s.id[to] = id[j];
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) s.count = s.compact;
  __syncthreads();
  return s.count;
}

// A row as one thread reads it: of each batch vectors 512 apart, which it copies and takes itself.
struct Reader {
  StreamStorage& s;
  const float* row;
  int vocab;
  bool wide;

  static __device__ __forceinline__ int token(int batch, int v) {
    return batch * kBatch + (v * kThreads + static_cast<int>(threadIdx.x)) * 4;
  }

  // Tokens outside are -inf.
  __device__ __forceinline__ void copy(int batch) const {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int from = token(batch, v);
      float4* to = &s.ring[batch % kBatches][v][threadIdx.x];
      if (wide && from + 4 <= vocab) {
        device::copy_16_async(to, row + from);
      } else if (batch * kBatch < vocab) {
        float* each = reinterpret_cast<float*>(to);
        for (int i = 0; i < 4; ++i) {
          if (from + i < vocab)
            device::copy_4_async(each + i, row + from + i);
          else
            each[i] = -INFINITY;
        }
      }
    }
    device::commit_copies();
  }

  // All of the first batch are candidates, where they stand: to count each would take long.
  __device__ __forceinline__ void take_first(Best& best) const {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const float4 z = s.ring[0][v][threadIdx.x];
      const int from = token(0, v);
      best.see(z.x, from);
      best.see(z.y, from + 1);
      best.see(z.z, from + 2);
      best.see(z.w, from + 3);
      *reinterpret_cast<uint4*>(&s.key[from]) = {
          key_of(z.x), key_of(z.y), key_of(z.z), key_of(z.w)};
      *reinterpret_cast<int4*>(&s.id[from]) = {from, from + 1, from + 2, from + 3};
    }
  }

  // `keeps`: candidates; else the best alone, which is a candidate too. Most vectors have neither.
  __device__ __forceinline__ void take(int batch, bool keeps, Best& best) const {
    const float threshold = s.threshold;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const float4 z = s.ring[batch % kBatches][v][threadIdx.x];
      const float most = fmaxf(fmaxf(z.x, z.y), fmaxf(z.z, z.w));
      const bool finite = z.x + z.y + (z.z + z.w) < INFINITY;
      if (finite && most < (keeps ? threshold : best.value)) continue;
      const float each[4] = {z.x, z.y, z.z, z.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        best.see(each[i], token(batch, v) + i);
        if (!keeps || !(each[i] >= threshold) || each[i] == -INFINITY) continue;
        const int to = atomicAdd(&s.count, 1);
        s.key[to] = key_of(each[i]);
        s.id[to] = token(batch, v) + i;
      }
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

// Reads the row, whose first batches are on their way; false when too many candidates stay. The
// others are in s.key and s.id.
__device__ bool stream(const Reader& r, uint32_t k, float slack, Best& best) {
  StreamStorage& s = r.s;
  const int batches = (r.vocab + kBatch - 1) / kBatch;
  const int enough = max(2 * static_cast<int>(k), kKept / 2);  // to be thinned out
  if (threadIdx.x == 0) {
    s.count = k > 0 ? kBatch : 0;
    s.threshold = -INFINITY;
  }
  __syncthreads();
#pragma unroll 1
  for (int b = 0; b < batches; ++b) {
    device::wait_copies<kBatches - 1>();
    b == 0 && k > 0 ? r.take_first(best) : r.take(b, k > 0, best);
    r.copy(b + kBatches);
    // Whoever adds the last one sees them all.
    const bool many = k > 0 && (b == 0 || *const_cast<volatile int*>(&s.count) > enough);
    if (__syncthreads_or(many) && compress(s, k, slack) > kKept) return false;
  }
  return k == 0 || s.count <= sampling::kFew || compress(s, k, slack) <= sampling::kCandidates;
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

// The same of a few of them, and their ranks: four lanes compare one with all.
__device__ void rank_few(StreamStorage& s, float most, float rate) {
  sampling::FewCandidates& few = s.law.few;
  const int thread = static_cast<int>(threadIdx.x), count = s.count;
  if (thread < count) {
    const float p = exp2f((logit_of(s.key[thread]) - most) * rate);
    few.found[thread] = {__float_as_uint(p), static_cast<uint32_t>(s.id[thread])};
  }
  __syncthreads();
  const int i = thread / 4;
  const uint2 own = few.found[min(i, count - 1)];
  uint32_t before = 0;  // likelier ones; in the upper half lower ids
  for (int j = thread % 4; j < count; j += 4) {
    const uint2 other = few.found[j];
    const bool lower = other.y < own.y;
    before += other.x > own.x || (other.x == own.x && lower) ? 1 : 0;
    before += lower ? 0x10000 : 0;
  }
  before += __shfl_xor_sync(device::kFullWarp, before, 1);
  before += __shfl_xor_sync(device::kFullWarp, before, 2);
  if (thread % 4 == 0 && i < count) {
    few.ranked[before & 0xffff] = {own.x, before >> 16};
    few.ordered[before >> 16] = own;
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
  const float* logits = a.logits + row * a.stride;
  const bool wide = a.stride % 4 == 0 && reinterpret_cast<uintptr_t>(a.logits) % 16 == 0;
  const Reader reader{s, logits, a.vocab, wide};
#pragma unroll
  for (int b = 0; b < kBatches; ++b) reader.copy(b);
  const float temperature = __ldcg(a.temperature + row);
  const sampling::Cuts cuts{
      static_cast<uint32_t>(__ldcg(a.top_k + row)), __ldcg(a.top_p + row), __ldcg(a.min_p + row)};
  const uint64_t random = sampling::random_bits(
      static_cast<uint64_t>(__ldcg(a.seed + row)), static_cast<uint32_t>(__ldcg(a.position + row))
  );
  const bool greedy = temperature == 0, few = cuts.top_k > 0 && cuts.top_k <= kMostTopK &&
                                              cuts.top_k < static_cast<uint32_t>(a.vocab);
  Best best;
  const bool done =
      (greedy || few) && stream(reader, greedy ? 0 : cuts.top_k, temperature * 0x1p-14f, best);
  device::wait_copies<0>();
  if (first) arguments.left[row] = done ? 0 : 1;
  if (!done) return;
  best = block_best(s, best);
  if (!best.healthy() || greedy) {
    if (!first) return;
    a.token[row] = best.healthy() ? best.index : 0;
    a.healthy[row] = best.healthy() ? 1 : 0;
    return;
  }
  const float rate = sampling::kLog2e / temperature;
  int token = 0;
  if (s.count <= sampling::kFew) {
    rank_few(s, best.value, rate);
    if (threadIdx.x >= 32 || !sampling::draw_few(s.law.few, s.count, cuts, random, token)) return;
  } else {
    order_candidates(s, best.value, rate);
    if (!sampling::draw_candidates(s.law, s.count, 0, cuts, random, token)) return;
  }
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
