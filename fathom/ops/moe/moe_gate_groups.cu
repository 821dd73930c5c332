// moe_gate, row cuda_groups: few tokens of routers with groups of 32 experts: a CTA per token, a
// warp per group, a lane per expert. Ranks are counted, not searched for: how many keys are larger,
// first among a group's, then among the groups' best.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/moe/gate_order.cuh"
#include "fathom/ops/moe/moe_gate_rows.h"

namespace fathom::ops {
namespace {

using device::kFullWarp;

constexpr int kMaxGroups = 16, kMaxSlots = 16;
constexpr int64_t kFewTokens = 64;

struct Arguments {
  const float *logits, *bias;  // bias: null, none
  const int32_t* live_tokens;
  int32_t* ids;
  float* weights;
  int64_t logits_stride, ids_stride, weights_stride;
  int k, groups, kept_groups, shared_slots;
  float scale, shared_weight;
  bool sum_of_two, renormalise;
};

struct SharedStorage {
  uint32_t strength[kMaxGroups];
  uint4 keys[kMaxGroups][8];              // of each group's experts
  uint32_t best[kMaxGroups * kMaxSlots];  // each group's k largest keys, in order
  int expert[kMaxGroups * kMaxSlots];     // and whose they are
  uint32_t chosen[kMaxGroups];            // a bit an expert
  float score[kMaxSlots];                 // of the chosen, ascending
};

// The group's strength as an ordered integer; of its largest biased score or the largest two.
__device__ uint32_t strength(float b, bool sum_of_two) {
  const uint32_t key = order_of(b == b ? b : kOut), first = __reduce_max_sync(kFullWarp, key);
  if (!sum_of_two) return first;
  const int winner = __ffs(static_cast<int>(__ballot_sync(kFullWarp, key == first))) - 1;
  const bool other = static_cast<int>(threadIdx.x) % 32 != winner;
  const uint32_t second = __reduce_max_sync(kFullWarp, other ? key : order_of(kOut));
  return order_of(float_of(first) + float_of(second));
}

__device__ bool group_is_kept(const Arguments& a, const SharedStorage& s, int group, int lane) {
  const uint32_t mine = s.strength[group];
  const uint32_t other = lane < a.groups ? s.strength[lane] : 0;
  const bool stronger = lane < a.groups && (other > mine || (other == mine && lane < group));
  return __popc(__ballot_sync(kFullWarp, stronger)) < a.kept_groups;
}

// Keys of the group that come before this lane's.
__device__ int rank_in_group(SharedStorage& s, uint32_t key, int group, int lane) {
  reinterpret_cast<uint32_t*>(s.keys[group])[lane] = key;
  __syncwarp();
  int rank = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint4 four = s.keys[group][i];
    const uint32_t other[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < 4; ++j)
      rank += other[j] > key || (other[j] == key && 4 * i + j < lane) ? 1 : 0;
  }
  return rank;
}

// Marks the k best of all groups' best; four threads a candidate.
__device__ void choose(const Arguments& a, SharedStorage& s) {
  const int n = a.groups * a.k, threads = a.groups * 32, thread = static_cast<int>(threadIdx.x);
  for (int from = 0; from < n; from += threads / 4) {
    const int i = from + thread / 4;
    const uint32_t key = s.best[min(i, n - 1)];
    int rank = 0;
    for (int j = thread % 4; j < n; j += 4) {
      const uint32_t other = s.best[j];
      rank += other > key || (other == key && j < i) ? 1 : 0;
    }
    rank += __shfl_xor_sync(kFullWarp, rank, 1);
    rank += __shfl_xor_sync(kFullWarp, rank, 2);
    if (i < n && rank < a.k && thread % 4 == 0)
      atomicOr(&s.chosen[s.expert[i] / 32], 1u << s.expert[i] % 32);
  }
}

__device__ void write(
    const Arguments& a, SharedStorage& s, int token, float p, bool nan, int group, int lane
) {
  int slot = __popc(s.chosen[group] & ((1u << lane) - 1));
  for (int g = 0; g < group; ++g) slot += __popc(s.chosen[g]);
  const bool chosen = s.chosen[group] >> lane & 1;
  if (chosen) s.score[slot] = p;
  __syncthreads();
  int32_t* ids = a.ids + token * a.ids_stride;
  float* weights = a.weights + token * a.weights_stride;
  if (chosen) {
    float divisor = 1.0f;
    if (a.renormalise) {
      divisor = 1e-20f;
      for (int i = 0; i < a.k; ++i) divisor += s.score[i];
    }
    ids[slot] = group * 32 + lane;
    weights[slot] = nan ? __int_as_float(0x7fffffff) : p / divisor * a.scale;
  }
  for (int i = static_cast<int>(threadIdx.x); i < a.shared_slots; i += a.groups * 32) {
    ids[a.k + i] = a.groups * 32 + i;
    weights[a.k + i] = a.shared_weight;
  }
}

__global__ void __launch_bounds__(kMaxGroups * 32) gate_by_groups(const Arguments a) {
  __shared__ SharedStorage s;
  const int group = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const float bias = a.bias == nullptr ? 0.0f : __ldg(a.bias + threadIdx.x);
  const int token = static_cast<int>(blockIdx.x);
  device::launch_successor();
  device::wait_for_predecessor();
  if (a.live_tokens != nullptr && token >= __ldcg(a.live_tokens)) {  // padding
    for (int i = static_cast<int>(threadIdx.x); i < a.k + a.shared_slots; i += a.groups * 32) {
      a.ids[token * a.ids_stride + i] = -1;
      a.weights[token * a.weights_stride + i] = 0;
    }
    return;
  }
  const float logit = __ldcg(a.logits + token * a.logits_stride + threadIdx.x);
  const float p = __frcp_rn(1.0f + __expf(-logit)), b = p + bias;
  const uint32_t own = strength(b, a.sum_of_two);
  if (lane == 0) {
    s.strength[group] = own;
    s.chosen[group] = 0;
  }
  const bool nan = __syncthreads_or(logit != logit) != 0;
  const uint32_t key = order_of(group_is_kept(a, s, group, lane) ? b : kOut);
  const int rank = rank_in_group(s, key, group, lane);
  if (rank < a.k) {
    s.best[group * a.k + rank] = key;
    s.expert[group * a.k + rank] = static_cast<int>(threadIdx.x);
  }
  __syncthreads();
  choose(a, s);
  __syncthreads();
  write(a, s, token, p, nan, group, lane);
}

}  // namespace

bool moe_gate_takes_groups(const Exec&, const MoeGate& args) {
  return args.scoring == MoeGate::Scoring::sigmoid && args.logits.dim(0) <= kFewTokens &&
         args.groups > 1 && args.groups <= kMaxGroups &&
         args.logits.dim(1) == int64_t{args.groups} * 32 && args.experts_per_token <= kMaxSlots;
}

void moe_gate_cuda_groups(Exec& exec, const MoeGate& args) {
  const Arguments a{
      .logits = args.logits.as<float>(),
      .bias = static_cast<const float*>(args.bias.data),
      .live_tokens = static_cast<const int32_t*>(args.live_tokens.data),
      .ids = args.ids.as<int32_t>(),
      .weights = args.weights.as<float>(),
      .logits_stride = args.logits.stride(0),
      .ids_stride = args.ids.stride(0),
      .weights_stride = args.weights.stride(0),
      .k = args.experts_per_token,
      .groups = args.groups,
      .kept_groups = args.kept_groups,
      .shared_slots = args.shared_slots,
      .scale = args.scale,
      .shared_weight = args.shared_weight,
      .sum_of_two = args.group_score == MoeGate::GroupScore::top2_sum,
      .renormalise = args.renormalise,
  };
  cuda::launch(
      exec,
      "moe_gate",
      {.grid = dim3(static_cast<unsigned>(args.logits.dim(0))), .threads = args.groups * 32},
      gate_by_groups,
      a
  );
}

}  // namespace fathom::ops
