// Routes: which rows each expert has, as the kernels of grouped_moe share it in device memory.
//
// Work is cut into items: up to `width` rows of one expert, items in ascending order of experts; an
// expert with more has equal ones, of multiples of 8 rows, and what is left.
// Row r of item i stands at i * width + r of every per-row array; places without a row hold
// anything. A token that names an expert twice has one row with the sum of both weights.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "fathom/core/exec.h"
#include "fathom/ops/device/divisor.cuh"
#include "fathom/ops/moe/grouped_moe.h"

namespace fathom::ops {

struct MoeRoutes {
  int width = 0;             // rows of an item
  int max_items = 0;         // that T, k and E allow
  int* items = nullptr;      // [1] how many there are
  int* expert = nullptr;     // [max_items]
  int* rows = nullptr;       // [max_items], 1 to width
  int* token = nullptr;      // [max_items * width]
  float* weight = nullptr;   // [max_items * width]
  int* first_row = nullptr;  // [max_items] rows of the items before
  int* row = nullptr;        // [T * k] of slot t * k + s among all rows, -1: none

  __host__ __device__ int places() const { return max_items * width; }
};

// The gate's choice, from which kernels make the routes of few tokens by themselves.
struct MoeChoice {
  const int32_t* ids = nullptr;
  const float* weights = nullptr;
  int64_t ids_stride = 0, weights_stride = 0;
  int T = 0, k = 0;
};

// x as the first product reads it.
struct MoeInput {
  const uint8_t* rows = nullptr;  // e4m3 [T, C], or x itself
  int64_t row_bytes = 0;
  const float* scale = nullptr;  // [C / 128][scale_columns], e4m3 only
  int scale_columns = 0;
};

// Where a lane's slot of at most 32 stands: nothing of it comes from a predecessor.
struct SlotPlace {
  bool inside;
  int token, slot;

  __device__ SlotPlace(const MoeChoice& c, const device::Divisor& by_k) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    inside = lane < c.T * c.k;
    token = inside ? by_k.quotient(lane) : 0;
    slot = lane - token * c.k;
  }
};

// The routes of at most 32 slots by one warp, a slot a lane.
struct SlotRoute {
  static constexpr int kSlots = 32;
  int token, id;   // -1: no expert
  float weight;    // of all its token's slots of the expert, this one and later
  uint32_t same;   // lanes kept of the same expert
  bool kept;       // an expert that its token has not named before
  uint32_t opens;  // lanes that name an expert first
  int rank;        // experts of lower numbers

  __device__ explicit SlotRoute(const MoeChoice& c)
      : SlotRoute(c, SlotPlace(c, device::Divisor::found(c.k))) {}

  __device__ SlotRoute(const MoeChoice& c, const SlotPlace& at) : token(at.token) {
    constexpr uint32_t kAll = 0xffffffffu;
    const int lane = static_cast<int>(threadIdx.x) % 32, n = c.T * c.k;
    id = at.inside ? __ldcg(c.ids + token * c.ids_stride + at.slot) : -1;
    const float own = at.inside ? __ldcg(c.weights + token * c.weights_stride + at.slot) : 0;
    const uint32_t below = (1u << lane) - 1;
    const uint32_t of_token = (c.k < 32 ? (1u << c.k) - 1 : kAll) << token * c.k;
    same = 0;
    uint32_t lower = 0;
    for (int first = 0; first < n; first += 8) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int other = __shfl_sync(kAll, id, first + i);
        same |= other == id ? 1u << (first + i) : 0;
        lower |= other < id ? 1u << (first + i) : 0;
      }
    }
    const uint32_t of_both = same & of_token;
    kept = id >= 0 && (of_both & below) == 0;
    same &= __ballot_sync(kAll, kept);
    opens = __ballot_sync(kAll, kept && (same & below) == 0);
    rank = __popc(lower & opens);
    weight = own;
    uint32_t again = of_both & ~below & ~(1u << lane);
    while (__any_sync(kAll, again != 0)) {
      const float more =
          __shfl_sync(kAll, own, again == 0 ? lane : __ffs(static_cast<int>(again)) - 1);
      weight += again == 0 ? 0 : more;
      again &= again - 1;
    }
  }
};

// Routes of at most 8 tokens in shared memory: an item per expert that is named.
struct FewRoutes {
  static constexpr int kTokens = 8;
  static constexpr int kSlots = 72;  // T * k at most
  static constexpr int kNamed = 32;  // words of experts
  int items;
  int ids[kSlots];
  float weights[kSlots];
  uint32_t named[kNamed];   // experts, a bit each
  uint32_t tokens[kSlots];  // of an item, a bit each
  int expert[kSlots];
  int rows[kSlots];            // of an item; row r stands at item * kTokens + r
  int pair[kSlots * kTokens];  // its slot among all tokens' ones
  int token[kSlots * kTokens];
  float weight[kSlots * kTokens];

  // By all threads of the CTA, more than kSlots; synchronises them.
  __device__ void make(const MoeChoice& c) {
    if (c.T * c.k <= SlotRoute::kSlots) {
      make_by_warp(c);
    } else {
      make_by_all(c);
    }
  }

 private:
  __device__ void make_by_warp(const MoeChoice& c) {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < 32) {
      const SlotRoute slot(c);
      if (slot.kept) {
        const int place = slot.rank * kTokens + __popc(slot.same & ((1u << thread) - 1));
        expert[slot.rank] = slot.id;
        rows[slot.rank] = __popc(slot.same);
        pair[place] = thread;
        token[place] = slot.token;
        weight[place] = slot.weight;
      }
      if (thread == 0) items = __popc(slot.opens);
    }
    __syncthreads();
  }

  // An expert's rank is the number of lower ones in the bitmap of those named; a token's place in
  // it the number of lower tokens that name it.
  __device__ void make_by_all(const MoeChoice& c) {
    const int i = static_cast<int>(threadIdx.x), n = c.T * c.k;
    const int t = i < n ? i / c.k : 0, first = t * c.k;
    int id = -1;
    float own = 0;
    if (i < n) {
      id = __ldcg(c.ids + t * c.ids_stride + i - first);
      own = __ldcg(c.weights + t * c.weights_stride + i - first);
      ids[i] = id;
      weights[i] = own;
      tokens[i] = 0;
    }
    if (i < kNamed) named[i] = 0;
    __syncthreads();
    if (id >= 0) atomicOr(&named[id / 32], 1u << id % 32);
    __syncthreads();
    // Every warp: a word a lane, and those before it.
    const uint32_t word = named[i % 32];
    int below = __popc(word);
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int more = __shfl_up_sync(0xffffffffu, below, static_cast<unsigned>(d));
      if (i % 32 >= d) below += more;
    }
    if (i == 31) items = below;
    below -= __popc(word);
    const int at = max(id, 0) / 32;
    const int rank = __shfl_sync(0xffffffffu, below, at) +
                     __popc(__shfl_sync(0xffffffffu, word, at) & ((1u << max(id, 0) % 32) - 1));
    if (id >= 0) atomicOr(&tokens[rank], 1u << t);
    __syncthreads();
    bool kept = id >= 0;
    for (int j = first; j < first + c.k && kept; ++j) {
      if (j == i || ids[j] != id) continue;
      kept = j > i;
      own += weights[j];
    }
    if (kept) {
      const int place = rank * kTokens + __popc(tokens[rank] & ((1u << t) - 1));
      expert[rank] = id;
      rows[rank] = __popc(tokens[rank]);
      pair[place] = i;
      token[place] = t;
      weight[place] = own;
    }
    __syncthreads();
  }
};

inline bool has_few_routes(const GroupedMoe& args) {
  return args.x.dim(0) <= FewRoutes::kTokens && args.ids.elements() <= FewRoutes::kSlots;
}

MoeChoice choice_of(const GroupedMoe& args);

// Memory of the routes of `args`, from exec's workspace.
MoeRoutes allocate_routes(const Exec& exec, const GroupedMoe& args, int width);

// Fills the routes and, where activations are quantised, quantises x: one launch.
MoeInput route_and_quantise(Exec& exec, const GroupedMoe& args, const MoeRoutes& routes);

}  // namespace fathom::ops
