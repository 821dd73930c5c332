// grouped_moe, row few_sm90, one or two tokens: what the loaders and the consumers of the kernel
// that makes both products share (moe_few_fused_sm90.cu).
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/device/divisor.cuh"
#include "fathom/ops/device/mbarrier.cuh"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/moe/moe_routes.cuh"

namespace fathom::ops::moe_fused {

using device::Barrier;
using device::Divisor;

inline constexpr int kTokens = 2;
inline constexpr int kConsumers = 256;
inline constexpr int kSlots = 4;  // of the ring
inline constexpr int kThreads = kConsumers + 32 * kSlots;
inline constexpr int kTiles = 4;                       // of a slot
inline constexpr int kImageBytes = 8 * kTileRowBytes;  // WGMMA's least operand B
inline constexpr int kChannels = 128;                  // of h in a piece
inline constexpr int kOutputs = 64;
inline constexpr int kShares = 8;       // of 64 outputs, at most
inline constexpr int kPartsAtOnce = 8;  // of a piece
inline constexpr float kEps = 1e-10f;

// How h of a token's piece is mailed: its channels, and a chunk whose first word is their scale.
template <bool Fp8>
struct Letter {
  static constexpr int kBytes = kChannels * (Fp8 ? 1 : 2);
  static constexpr int kChunks = kBytes / 16 + 1;
  static constexpr int kPieces = kTiles * kTileRowBytes / kBytes;  // of a slot of down's weights
  static constexpr int kLanes = 32 / kPieces;                      // that bring one
  static constexpr uint32_t kWeights = kTiles / kPieces * static_cast<uint32_t>(kTileBytes);
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
  uint32_t* parts;   // [ctas][each][gate, up][T][kChannels]
  uint32_t* hidden;  // [pieces][tiles][T][Letter]
  uint32_t* sums;    // [tiles][shares][T][kOutputs]
  int groups;        // I / kChannels
  int blocks;        // of 128 bytes of K, of the first product
  int tiles;         // C / kOutputs
  int shares;
  int each;  // pieces that a CTA has a part of, at most
  Divisor by_k, by_grid, by_groups, by_blocks, by_tiles, by_shares;
  bool ue8m0;
};

template <bool Fp8>
struct SharedStorage {
  uint8_t w[kSlots][kTiles][kTileBytes];
  uint8_t rows[kSlots][kTiles][kImageBytes];  // of x or h; zeros beyond the tokens
  float2 scale[kSlots][kTiles];               // of a tile's products, of both tokens
  uint4 letter[kTokens * Letter<Fp8>::kChunks];
  float total[2][kTokens][kOutputs];
  int expert[kSlots][SlotRoute::kSlots];  // of an item, for each loader
  float amax[kConsumers / 32];
  Barrier full[kSlots], empty[kSlots];
};

// What a CTA does.
struct Work {
  int pieces, per_cta;  // of all; units
  int begin, end;       // units
  int tile;             // of 64 outputs
  int share;            // `shares`: none
  int first, last;      // pieces of the second product
  int slots;            // of their weights

  template <bool Fp8>
  __device__ static Work of(const Arguments& a, int items) {
    Work w;
    const int cta = static_cast<int>(blockIdx.x), grid = static_cast<int>(gridDim.x);
    w.pieces = items * a.groups;
    const int units = w.pieces * a.blocks;
    w.per_cta = a.by_grid.quotient(units + grid - 1);
    w.begin = min(cta * w.per_cta, units);
    w.end = min(w.begin + w.per_cta, units);
    w.share = a.by_tiles.quotient(cta);
    w.tile = cta - w.share * a.tiles;
    const bool has = w.share < a.shares;
    w.first = has ? a.by_shares.quotient(w.pieces * w.share) : 0;
    w.last = has ? a.by_shares.quotient(w.pieces * (w.share + 1)) : 0;
    constexpr int kPieces = Letter<Fp8>::kPieces;
    w.slots = (w.last - w.first + kPieces - 1) / kPieces;
    return w;
  }
  __device__ int units() const { return end - begin; }
  __device__ int jobs() const { return units() + slots; }
};

}  // namespace fathom::ops::moe_fused
