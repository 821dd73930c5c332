// grouped_moe, row few_sm90: what the roles of the kernel that makes both products share
// (moe_few_sm90.cu).
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/device/divisor.cuh"
#include "fathom/ops/device/mbarrier.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/moe/moe_routes.cuh"

namespace fathom::ops::moe_few {

using device::Barrier;
using device::Divisor;

inline constexpr int kTokens = FewRoutes::kTokens;
inline constexpr int kSlots = 4;  // of the ring
inline constexpr int kTiles = 4;  // of a slot
inline constexpr int kConsumers = 256;
inline constexpr int kLoaders = 32 * kSlots;
inline constexpr int kFinishers = 128;
inline constexpr int kThreads = kConsumers + kLoaders + kFinishers;
inline constexpr int kImageBytes = 8 * kTileRowBytes;  // WGMMA's least operand B
inline constexpr int kChannels = 128;                  // of h in a piece
inline constexpr int kOutputs = 64;
inline constexpr int kUnits = 8;    // slots of a job of the first product, at most
inline constexpr int kStretch = 4;  // of the second one, but for a CTA's own tile
inline constexpr int kClaims = 8;   // more than some warps can know before others
inline constexpr int kWords = 16;   // of mail that a thread waits for at once
inline constexpr float kEps = 1e-10f;

// How h of a row's piece is mailed: its channels, and a chunk whose first word is their scale.
template <bool Fp8>
struct Letter {
  static constexpr int kBytes = kChannels * (Fp8 ? 1 : 2);
  static constexpr int kChunks = kBytes / 16 + 1;
  static constexpr int kBlocks = kBytes / kTileRowBytes;
  static constexpr int kLanes = 8 * kBlocks;  // that bring one
};

struct Arguments {
  MoeChoice choice;
  const uint8_t* x;
  const uint8_t* gate_up;
  const uint8_t* down;
  const float* gate_up_scale;  // [E][2 I / 128][blocks]
  const float* down_scale;     // [E][C / 128][groups]
  const __nv_bfloat16* addend;
  __nv_bfloat16* y;
  int64_t x_row_bytes, addend_stride, y_stride;
  uint32_t* claimed;  // [1] jobs, beside each CTA's first
  uint32_t* parts;    // [pairs][groups][splits][gate, up][kChannels]
  uint32_t* hidden;   // [pairs][groups][tiles][Letter]
  uint32_t* sums;     // [pairs][tiles][subs][kOutputs]
  // The first product: pieces of an expert (I / kChannels), blocks of 128 bytes of K.
  int groups, blocks, splits, units;  // a piece's jobs, and each one's blocks
  // The second product: tiles (C / kOutputs), blocks. `home`: each CTA has a tile; `wide`: a slot
  // has two tiles; else a job has a stretch of an expert's `lengths` slots of a tile.
  bool home, wide;
  int tiles, down_blocks, lengths, stretch;
  Divisor by_groups, by_splits;
  Divisor by_item, by_stretches;  // an item's jobs of the second product, a tile's
  Divisor by_subs;                // sums of an expert's 64 outputs
  bool ue8m0;
};

// A run of slots of the ring. The first product's jobs come first.
struct Job {
  bool down;
  int item, slots;
  int place;  // the item's piece, by group; of the second product the tile, or the first of two
  int part;   // which of the piece's splits, of the tile's stretches

  static constexpr uint32_t kNone = ~0u;
  static constexpr int kMostPlaces = 1 << 12, kMostParts = 1 << 8;

  __device__ static int parts(const Arguments& a, int items) { return items * a.groups * a.splits; }
  // How many there are to claim.
  __device__ static int count(const Arguments& a, int items) {
    return parts(a, items) + (a.home ? 0 : items * a.by_item.by);
  }
  // A claim's job as a word, or kNone.
  __device__ static uint32_t of(const Arguments& a, int items, int claim) {
    if (claim < parts(a, items)) {
      const int piece = a.by_splits.quotient(claim), item = a.by_groups.quotient(piece);
      return word(0, item, piece - item * a.groups, claim - piece * a.splits, a.units);
    }
    const auto cta = static_cast<int>(blockIdx.x);
    if (a.home) return cta < a.tiles ? word(1, 0, cta, 0, (items + 1) / 2) : kNone;
    const int rest = claim - parts(a, items), item = a.by_item.quotient(rest);
    if (item >= items) return kNone;
    const int at = rest - item * a.by_item.by, place = a.by_stretches.quotient(at);
    const int part = at - place * a.by_stretches.by;
    const int slots = min(a.stretch, a.lengths - part * a.stretch);
    return word(1, item, a.wide ? 2 * place : place, part, slots);
  }
  __device__ explicit Job(uint32_t word)
      : down(word >> 31 != 0),
        item(static_cast<int>(word >> 24 & 127)),
        slots(static_cast<int>(word & 15)),
        place(static_cast<int>(word >> 12 & (kMostPlaces - 1))),
        part(static_cast<int>(word >> 4 & (kMostParts - 1))) {}

 private:
  __device__ static uint32_t word(int down, int item, int place, int part, int slots) {
    return static_cast<uint32_t>(down) << 31 |
           static_cast<uint32_t>(item << 24 | place << 12 | part << 4 | slots);
  }
};

// What half of a slot's tiles of the second product are: neighbouring blocks of K of a tile.
struct Strip {
  int item, tile, block, blocks;  // `blocks`: 0 to 2

  __device__ Strip(const Arguments& a, const Job& job, int items, int slot, int half) {
    item = a.home ? 2 * slot + half : job.item;
    tile = job.place + (a.wide ? half : 0);
    block = a.home || a.wide ? 0 : (job.part * a.stretch + slot) * kTiles + half * 2;
    blocks = item < items ? max(min(2, a.down_blocks - block), 0) : 0;
  }
};

template <bool Fp8>
struct SharedStorage {
  uint8_t w[kSlots][kTiles][kTileBytes];
  uint8_t rows[kSlots][kTiles][kImageBytes];  // of x or h
  float scale[kSlots][kTiles][kTokens];       // of a tile's products
  uint4 letter[Letter<Fp8>::kChunks];
  float total[2][kTokens][kOutputs];
  float amax[kFinishers / 32];
  int2 order[FewRoutes::kSlots];  // of the items' rows, one after the other: pair and token
  uint32_t claim[kClaims];        // jobs as words
  Barrier full[kSlots], empty[kSlots], told[kClaims];
  FewRoutes routes;
};

// The jobs of a CTA, one after the other: the first by the CTA's number, the others as they are
// claimed. All warps that read or fill the ring walk through them.
template <bool Fp8>
struct Walk {
  const Arguments& a;
  SharedStorage<Fp8>& s;
  device::Ring<kClaims> next = {};
  int position = 0;  // of the job's first slot in the passes over the ring
  uint32_t word = Job::of(a, s.routes.items, static_cast<int>(blockIdx.x));

  __device__ bool ended() const { return word == Job::kNone; }
  __device__ void pass(const Job& job) {
    position += job.slots;
    if (a.home && job.down) word = Job::kNone;
  }

  // The next job, claimed by this warp for all.
  __device__ void claim() {
    const int all = Job::count(a, s.routes.items);
    if (threadIdx.x % 32 == 0) {
      const auto before = static_cast<int>(atomicAdd(a.claimed, 1u));
      if (before == all - 1) *a.claimed = 0;  // every CTA has found the end
      s.claim[next.stage] = Job::of(a, s.routes.items, before + static_cast<int>(gridDim.x));
      s.told[next.stage].arrive();
    }
    hear();
  }
  __device__ void hear() {
    s.told[next.stage].wait(next.full_parity());
    word = s.claim[next.stage];
    next.advance();
  }
};

}  // namespace fathom::ops::moe_few
