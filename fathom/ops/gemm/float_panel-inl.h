// The multiply of float products: a panel of 32 rows against a tile of tokens, lanes = rows, k
// ascending, one FMA chain per output.
#if defined(FATHOM_OPS_GEMM_FLOAT_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_FLOAT_PANEL_INL_H_
#undef FATHOM_OPS_GEMM_FLOAT_PANEL_INL_H_
#else
#define FATHOM_OPS_GEMM_FLOAT_PANEL_INL_H_
#endif

#include "fathom/core/tensor.h"
#include "fathom/ops/gemm/packed_layout.h"
#include "fathom/ops/gemm/token_tiles-inl.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

inline constexpr int kPanelVectors = kPanelRows / kLanes;
inline constexpr int kMostPanelTokens = kManyRegisters ? 12 : 6;

// Vectors of rows that are multiplied together: as many as the registers hold sums for, all of the
// panel when there are few tokens, so that its bytes pass once.
constexpr int vectors_at_once(int tokens) {
  if (tokens <= 2) return kPanelVectors;
  return kLanes == 4 && tokens <= 4 ? 4 : 2;
}

// k that one load of a packed type yields, and its bytes for the whole panel.
constexpr int step_of(DType packed) {
  return packed == DType::bf16x32 ? 2 : 1;
}
constexpr int panel_step_bytes(DType packed) {
  return packed == DType::f16x32 ? 64 : 128;
}

// Lanes of vector `part` of the panel for the k of one step; out has step_of(kType) vectors.
template <DType kType>
HWY_INLINE void load_step(const uint8_t* at, int part, VF* out) {
  if constexpr (kType == DType::f32x32) {
    out[0] = hn::Load(F32(), reinterpret_cast<const float*>(at) + part * kLanes);
  } else if constexpr (kType == DType::f16x32) {
    out[0] = load_f16(at + 2 * part * kLanes);
  } else {
    const U32 d;
    const auto pair = hn::Load(d, reinterpret_cast<const uint32_t*>(at) + part * kLanes);
    out[0] = hn::BitCast(F32(), hn::ShiftLeft<16>(pair));
    out[1] = hn::BitCast(F32(), hn::And(pair, hn::Set(d, 0xffff0000u)));
  }
}

// tile[t * 32 + row] = sum over k in [0, K) of W[row, k] x[t * stride + k], for kTokens tokens, K a
// multiple of the step. `adds`: the sum starts from the tile's value, so that cutting K does not
// change bits.
template <DType kType, int kTokens>
HWY_NOINLINE void multiply_panel(
    const uint8_t* panel, int64_t K, const float* x, int64_t stride, bool adds, float* tile
) {
  constexpr int kVectors = vectors_at_once(kTokens);
  constexpr int kStep = step_of(kType), kBytes = panel_step_bytes(kType);
  for (int part = 0; part < kPanelVectors; part += kVectors) {
    VF sums[kVectors][kTokens];
#pragma GCC unroll 8
    for (int p = 0; p < kVectors; ++p) {
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) sums[p][t] = hn::Zero(F32());
    }
    if (adds) {
#pragma GCC unroll 8
      for (int p = 0; p < kVectors; ++p) {
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t)
          sums[p][t] = hn::LoadU(F32(), tile + t * kPanelRows + (part + p) * kLanes);
      }
    }
    for (int64_t k = 0; k < K; k += kStep) {
      const uint8_t* at = panel + k / kStep * kBytes;
      if constexpr (kTokens <= 8) {
        // One stream, read once: into the second-level cache early, into the first in time.
#pragma GCC unroll 2
        for (int line = 0; line < kBytes; line += 64) {
          prefetch_near(at + 1024 + line);
          prefetch_far(at + 8192 + line);
        }
      }
      VF w[kVectors][kStep];
#pragma GCC unroll 8
      for (int p = 0; p < kVectors; ++p) load_step<kType>(at, part + p, w[p]);
#pragma GCC unroll 2
      for (int s = 0; s < kStep; ++s) {
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t) {
          const VF broadcast = hn::Set(F32(), x[t * stride + k + s]);
#pragma GCC unroll 8
          for (int p = 0; p < kVectors; ++p)
            sums[p][t] = hn::MulAdd(w[p][s], broadcast, sums[p][t]);
        }
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < kVectors; ++p) {
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t)
        hn::StoreU(sums[p][t], F32(), tile + t * kPanelRows + (part + p) * kLanes);
    }
  }
}

// All M tokens, in the largest tiles that fit. tile is [M, 32].
template <DType kType>
void multiply_panel_tokens(
    const uint8_t* panel,
    int64_t K,
    const float* x,
    int64_t stride,
    int64_t M,
    bool adds,
    float* tile
) {
  for_tiles<kMostPanelTokens>(0, M, [&](auto tokens, int64_t m) {
    multiply_panel<kType, tokens()>(panel, K, x + m * stride, stride, adds, tile + m * kPanelRows);
  });
}

// k in [begin, end) of a panel as f32 [k][32]: what many tokens are multiplied with.
template <DType kType>
void decode_panel(const uint8_t* panel, int64_t begin, int64_t end, float* to) {
  constexpr int kStep = step_of(kType), kBytes = panel_step_bytes(kType);
  for (int64_t k = begin; k < end; k += kStep) {
    const uint8_t* at = panel + k / kStep * kBytes;
    for (int line = 0; line < kBytes; line += 64) prefetch_far(at + 2048 + line);
    for (int part = 0; part < kPanelVectors; ++part) {
      VF values[kStep];
      load_step<kType>(at, part, values);
      for (int s = 0; s < kStep; ++s)
        hn::Store(values[s], F32(), to + (k - begin + s) * kPanelRows + part * kLanes);
    }
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
