// FP8 weights packed by 32 rows against many tokens: a block of 128 k of a panel is decoded once,
// into the first-level cache, and meets all tokens there. Adds the same numbers in the same order
// as fp8_panel-inl.h.
#if defined(FATHOM_OPS_GEMM_FP8_STAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_FP8_STAGE_INL_H_
#undef FATHOM_OPS_GEMM_FP8_STAGE_INL_H_
#else
#define FATHOM_OPS_GEMM_FP8_STAGE_INL_H_
#endif

#include <cstring>

#include "fathom/core/tensor.h"
#include "fathom/ops/gemm/fp8_panel-inl.h"
#include "fathom/ops/gemm/token_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

inline constexpr int kFp8StageTokens = kManyRegisters ? 12 : 6;  // of the largest tile
inline constexpr int kFp8StageMost = 132;                        // tokens that meet a staged block

// A unit is what one product takes of a token: two activations, or one; kFp8UnitOrder is the order
// in which the units of 4 k are added.
#if HWY_TARGET == HWY_AVX3_DL
using Fp8Unit = uint32_t;
inline constexpr int kFp8UnitSize = 2;
inline constexpr int kFp8UnitOrder[] = {0, 1};

HWY_INLINE VF add_unit(VF sum, hn::Vec<U32> w, Fp8Unit x) {
  const auto broadcast = hn::Set(U32(), x);
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(w.raw), "v"(broadcast.raw));
  return sum;
}
#else
using Fp8Unit = float;
inline constexpr int kFp8UnitSize = 1;
inline constexpr int kFp8UnitOrder[] = {1, 0, 3, 2};

HWY_INLINE VF add_unit(VF sum, hn::Vec<U32> w, Fp8Unit x) {
  return hn::MulAdd(hn::BitCast(F32(), w), hn::Set(F32(), x), sum);
}
#endif

inline constexpr int kFp8StepUnits = 4 / kFp8UnitSize;
inline constexpr int kFp8BlockUnits = kFp8Block / kFp8UnitSize;

// Tokens [from, end) of x [M, K] as a tile's loop reads them: [K / unit][tokens] of each tile, in
// the order of adding; a tile from m on begins at unit m * K / kFp8UnitSize.
inline void pack_fp8_tokens(const Tensor& x, int64_t from, int64_t end, Fp8Unit* to) {
  const int64_t K = x.dim(1);
  for_tiles<kFp8StageTokens>(from, end, [&](auto tokens, int64_t m) {
    constexpr int kTokens = decltype(tokens)::value;
    Fp8Unit* tile = to + m * K / kFp8UnitSize;
    for (int64_t block = 0; block < K; block += kFp8Block) {
      for (int t = 0; t < kTokens; ++t) {
        Fp8Activation row[kFp8Block];
        fp8_activations(x.as<uint8_t>() + (m + t) * x.stride(0) + block, kFp8Block, row);
        for (int i = 0; i < kFp8BlockUnits; ++i) {
          const int step = i / kFp8StepUnits * 4;
          const int unit = step + kFp8UnitOrder[i % kFp8StepUnits] * kFp8UnitSize;
          std::memcpy(tile + i * kTokens + t, row + unit, sizeof(Fp8Unit));
        }
      }
      tile += kFp8BlockUnits * kTokens;
    }
  });
}

// 128 k of a panel, decoded: [unit][row].
struct Fp8Stage {
  alignas(64) uint32_t lanes[kFp8BlockUnits * kPanelRows];

  // `codes`: the panel at the block's first k.
  HWY_NOINLINE void fill(const uint8_t* codes) {
    constexpr int64_t kFar = 8192;
    const Fp8Decoder decoder;
    uint32_t* to = lanes;
    for (int step = 0; step < kFp8Block / 4; ++step, codes += kFp8PanelStep) {
      prefetch_far(codes + kFar);
      prefetch_far(codes + kFar + 64);
#pragma GCC unroll 8
      for (int row = 0; row < kPanelRows; row += kLanes) {
        Fp8Decoder::Step decoded;
        decoder.decode(codes + row / 16 * 64 + row % 16 * 4, decoded);
#pragma GCC unroll 4
        for (int u = 0; u < kFp8StepUnits; ++u) {
          const auto unit = hn::BitCast(U32(), decoded[kFp8UnitOrder[u]]);
          hn::Store(unit, U32(), to + u * kPanelRows + row);
        }
      }
      to += kFp8StepUnits * kPanelRows;
    }
  }
};

// sums[t, row] += scale[t] * the block's products with token t; x [units][kTokens], sums
// [kTokens, 32]. `next`: the activations that are wanted after these, which lie elsewhere.
template <int kTokens>
HWY_NOINLINE void multiply_fp8_stage(
    const Fp8Stage& stage, const Fp8Unit* x, const Fp8Unit* next, const float* scale, float* sums
) {
  constexpr int kVectors = 2;
  const F32 d;
  for (int part = 0; part < kPanelRows; part += kVectors * kLanes) {
    VF dots[kTokens][kVectors];
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) dots[t][0] = dots[t][1] = hn::Zero(d);
    for (int i = 0; i < kFp8BlockUnits; ++i) {
      prefetch_near(next + i * kTokens);
      const auto first = hn::Load(U32(), stage.lanes + i * kPanelRows + part);
      const auto second = hn::Load(U32(), stage.lanes + i * kPanelRows + part + kLanes);
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) {
        dots[t][0] = add_unit(dots[t][0], first, x[i * kTokens + t]);
        dots[t][1] = add_unit(dots[t][1], second, x[i * kTokens + t]);
      }
    }
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      const VF factor = hn::Set(d, scale[t]);
      float* to = sums + t * kPanelRows + part;
      hn::Store(hn::MulAdd(dots[t][0], factor, hn::Load(d, to)), d, to);
      hn::Store(hn::MulAdd(dots[t][1], factor, hn::Load(d, to + kLanes)), d, to + kLanes);
    }
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
