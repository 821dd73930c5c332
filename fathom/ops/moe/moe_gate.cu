// moe_gate, row cuda_warp: a warp per token, its scores in registers.
//
// Lane l holds `per_lane` consecutive experts; a group is a whole number of lanes. Scores become
// integers of the same order, so that one redux finds the largest; the lowest lane that has it
// holds the lowest index.
#include <algorithm>

#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/moe/gate_order.cuh"
#include "fathom/ops/moe/moe_gate_rows.h"

namespace fathom::ops {
namespace {

using device::kFullWarp;

struct Arguments {
  const float* logits;
  const float* bias;
  const int32_t* live_tokens;
  int32_t* ids;
  float* weights;
  int64_t logits_stride, ids_stride, weights_stride;
  int T, E, k, per_lane, group_lanes, groups, kept_groups, shared_slots;
  float scale, shared_weight;
  bool sigmoid, sum_of_two, renormalise, vectors;
};

// Experts of this lane: kMost at most, a.per_lane of them.
template <int kMost>
struct Gate {
  const Arguments& a;
  int lane;
  int group;  // of this lane's experts

  __device__ bool holds(int i) const { return i < a.per_lane && lane * a.per_lane + i < a.E; }

  __device__ void load(const float* row, float (&v)[kMost]) const {
    if (kMost >= 4 && a.vectors) {
#pragma unroll
      for (int i = 0; i < kMost; i += 4) {
        if (!holds(i)) continue;
        const float4 four = __ldcg(reinterpret_cast<const float4*>(row + lane * a.per_lane + i));
        v[i] = four.x;
        v[i + 1] = four.y;
        v[i + 2] = four.z;
        v[i + 3] = four.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kMost; ++i) {
        if (holds(i)) v[i] = __ldcg(row + lane * a.per_lane + i);
      }
    }
  }

  __device__ void score(float (&p)[kMost]) const {
    if (a.sigmoid) {
#pragma unroll
      for (int i = 0; i < kMost; ++i) p[i] = __frcp_rn(1.0f + __expf(-p[i]));
      return;
    }
    float top = kOut, sum = 0;
#pragma unroll
    for (int i = 0; i < kMost; ++i) top = holds(i) ? fmaxf(top, p[i]) : top;
    top = device::warp_max(top);
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      p[i] = holds(i) ? __expf(p[i] - top) : 0.0f;
      sum += p[i];
    }
    const float inverse = __frcp_rn(device::warp_sum(sum));
#pragma unroll
    for (int i = 0; i < kMost; ++i) p[i] *= inverse;
  }

  // The strength of this lane's group.
  __device__ float strength(const float (&b)[kMost]) const {
    float first = kOut, second = kOut;
    const auto take = [&](float v) {
      second = fmaxf(second, fminf(first, v));
      first = fmaxf(first, v);
    };
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (holds(i) && b[i] == b[i]) take(b[i]);
    }
    const float mine_first = first, mine_second = second;
    int from = lane;
    for (int j = 1; j < a.group_lanes; ++j) {
      if (++from == (group + 1) * a.group_lanes) from = group * a.group_lanes;
      take(__shfl_sync(kFullWarp, mine_first, from));
      take(__shfl_sync(kFullWarp, mine_second, from));
    }
    return a.sum_of_two ? first + second : first;
  }

  __device__ bool group_is_kept(const float (&b)[kMost]) const {
    const uint32_t mine = order_of(strength(b));
    int stronger = 0;
#pragma unroll 8
    for (int g = 0; g < a.groups; ++g) {
      const uint32_t other = __shfl_sync(kFullWarp, mine, g * a.group_lanes);
      stronger += other > mine || (other == mine && g < group);
    }
    return stronger < a.kept_groups;
  }

  // A bit for each chosen expert of this lane.
  __device__ uint32_t choose(uint32_t (&key)[kMost]) const {
    uint32_t chosen = 0;
    for (int slot = 0; slot < a.k; ++slot) {
      uint32_t best[kMost];
      int at[kMost];
#pragma unroll
      for (int i = 0; i < kMost; ++i) {
        best[i] = key[i];
        at[i] = i;
      }
      // A tree of neighbours: the left one has the lower indices and wins a tie.
#pragma unroll
      for (int level = 2; level <= kMost; level *= 2) {
#pragma unroll
        for (int i = 0; i < kMost / 2; ++i) {
          if (i >= kMost / level) continue;
          const bool right = best[2 * i + 1] > best[2 * i];
          best[i] = right ? best[2 * i + 1] : best[2 * i];
          at[i] = right ? at[2 * i + 1] : at[2 * i];
        }
      }
      const uint32_t top = __reduce_max_sync(kFullWarp, best[0]);
      const int winner = __ffs(static_cast<int>(__ballot_sync(kFullWarp, best[0] == top))) - 1;
      const uint32_t mine = lane == winner ? 1u << at[0] : 0;
      chosen |= mine;
#pragma unroll
      for (int i = 0; i < kMost; ++i) key[i] = mine >> i & 1 ? kTaken : key[i];
    }
    return chosen;
  }

  __device__ void write(int token, const float (&p)[kMost], uint32_t chosen, bool nan) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kMost; ++i) sum += chosen >> i & 1 ? p[i] : 0.0f;
    const float divisor = a.renormalise ? device::warp_sum(sum) + 1e-20f : 1.0f;
    int slot = __popc(chosen);  // inclusive prefix over the lanes, then exclusive
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int below = __shfl_up_sync(kFullWarp, slot, d);
      slot += lane >= d ? below : 0;
    }
    slot -= __popc(chosen);
    int32_t* ids = a.ids + token * a.ids_stride;
    float* weights = a.weights + token * a.weights_stride;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if ((chosen >> i & 1) == 0) continue;
      ids[slot] = lane * a.per_lane + i;
      weights[slot++] = nan ? __int_as_float(0x7fffffff) : p[i] / divisor * a.scale;
    }
    for (int i = lane; i < a.shared_slots; i += 32) {
      ids[a.k + i] = a.E + i;
      weights[a.k + i] = a.shared_weight;
    }
  }

  __device__ void run(int token, const float (&bias)[kMost]) const {
    float p[kMost] = {}, b[kMost];
    load(a.logits + token * a.logits_stride, p);
    bool nan = false;
#pragma unroll
    for (int i = 0; i < kMost; ++i) nan |= holds(i) && p[i] != p[i];
    score(p);
#pragma unroll
    for (int i = 0; i < kMost; ++i) b[i] = p[i] + bias[i];
    const bool kept = a.groups == 1 || group_is_kept(b);
    uint32_t key[kMost];
#pragma unroll
    for (int i = 0; i < kMost; ++i) key[i] = holds(i) ? order_of(kept ? b[i] : kOut) : kTaken;
    write(token, p, choose(key), __any_sync(kFullWarp, nan));
  }

  // Padding.
  __device__ void write_idle(int token) const {
    for (int i = lane; i < a.k + a.shared_slots; i += 32) {
      a.ids[token * a.ids_stride + i] = -1;
      a.weights[token * a.weights_stride + i] = 0;
    }
  }
};

constexpr int kWarps = 8;

template <int kMost>
__global__ void __launch_bounds__(kWarps * 32) gate(const Arguments a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Gate<kMost> gate{a, lane, lane / a.group_lanes};
  float bias[kMost];
#pragma unroll
  for (int i = 0; i < kMost; ++i)
    bias[i] = a.bias != nullptr && gate.holds(i) ? __ldg(a.bias + gate.lane * a.per_lane + i) : 0;
  device::launch_successor();
  device::wait_for_predecessor();
  const int token = static_cast<int>(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
  if (token >= a.T) return;
  if (a.live_tokens == nullptr || token < __ldcg(a.live_tokens)) {
    gate.run(token, bias);
  } else {
    gate.write_idle(token);
  }
}

// Experts a lane, so that a group is a whole number of lanes; 0: there is none.
int experts_per_lane(const MoeGate& args) {
  const int64_t E = args.logits.dim(1), width = E / args.groups;
  for (int64_t n = (E + 31) / 32; n <= 32; ++n) {
    if (args.groups == 1 || (width % n == 0 && E / n <= 32)) return static_cast<int>(n);
  }
  return 0;
}

}  // namespace

bool moe_gate_takes_warp(const Exec&, const MoeGate& args) {
  return experts_per_lane(args) > 0;
}

void moe_gate_cuda_warp(Exec& exec, const MoeGate& args) {
  const int per_lane = experts_per_lane(args);
  const Arguments a{
      .logits = args.logits.as<float>(),
      .bias = static_cast<const float*>(args.bias.data),
      .live_tokens = static_cast<const int32_t*>(args.live_tokens.data),
      .ids = args.ids.as<int32_t>(),
      .weights = args.weights.as<float>(),
      .logits_stride = args.logits.stride(0),
      .ids_stride = args.ids.stride(0),
      .weights_stride = args.weights.stride(0),
      .T = static_cast<int>(args.logits.dim(0)),
      .E = static_cast<int>(args.logits.dim(1)),
      .k = args.experts_per_token,
      .per_lane = per_lane,
      .group_lanes = std::max(1, static_cast<int>(args.logits.dim(1)) / args.groups / per_lane),
      .groups = args.groups,
      .kept_groups = args.kept_groups,
      .shared_slots = args.shared_slots,
      .scale = args.scale,
      .shared_weight = args.shared_weight,
      .sigmoid = args.scoring == MoeGate::Scoring::sigmoid,
      .sum_of_two = args.group_score == MoeGate::GroupScore::top2_sum,
      .renormalise = args.renormalise,
      .vectors = per_lane % 4 == 0 && args.logits.dim(1) % 4 == 0 &&
                 args.logits.stride(0) % 4 == 0 &&
                 reinterpret_cast<uintptr_t>(args.logits.data) % 16 == 0,
  };
  constexpr int kManyTokens = 2048;  // below, single warps spread best
  const int warps = a.T < kManyTokens ? 1 : kWarps;
  const cuda::LaunchShape shape{
      .grid = dim3(static_cast<unsigned>((a.T + warps - 1) / warps)), .threads = warps * 32};
  const auto kernel = per_lane <= 4    ? gate<4>
                      : per_lane <= 8  ? gate<8>
                      : per_lane <= 16 ? gate<16>
                                       : gate<32>;
  cuda::launch(exec, "moe_gate", shape, kernel, a);
}

}  // namespace fathom::ops
