// Products with block-quantised weights packed by 16 rows: integer dots of 32 k, one float FMA
// chain per output (gguf_gemm.h). One source, compiled for AVX2, AVX-512, AVX-512 with VNNI, and
// NEON.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/gemm/gguf_gemm_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/gemm/block_quants.h"
#include "fathom/ops/gemm/gguf_gemm_rows.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/packed_layout.h"
#include "fathom/ops/gemm/quantise_rows-inl.h"
#include "fathom/ops/simd/lanes-inl.h"
#include "fathom/ops/simd/store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr int kParts = kGroupRows / kLanes;  // vectors that hold a group's rows
constexpr int kMostTokens = kManyRegisters ? 12 : 4;

constexpr int max_code(PackedLayout layout) {
  return layout.high_bits == 4 ? 255 : (16 << layout.high_bits) - 1;
}

// The eight code vectors of a chunk, lanes of one part: vector j holds k = 4j .. 4j+3 of each row.
template <DType kType>
HWY_INLINE void load_codes(const uint8_t* codes, VU8* out) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  const U8 d;
  if constexpr (kLayout.high_bits == 4) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) out[j] = hn::Load(d, codes + 64 * j);
  } else {
    const VU8 mask = hn::Set(d, 15);
    const U32 d32;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const VU8 both = hn::Load(d, codes + 64 * i);
      const auto shifted = hn::ShiftRight<4>(hn::BitCast(d32, both));
      out[i] = hn::And(both, mask);
      out[i + 4] = hn::And(hn::BitCast(d, shifted), mask);
    }
  }
}

// Adds bit 4 of each code (one plane of bits) or bits 4 and 5 (two planes of pairs).
template <int kHighBits>
HWY_INLINE void add_high_bits(const uint8_t* planes, VU8* out) {
  const U8 d;
  const U32 d32;
  constexpr int kPerPlane = 8 / kHighBits;
  const VU8 mask = hn::Set(d, static_cast<uint8_t>(((1 << kHighBits) - 1) << 4));
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const auto plane = hn::BitCast(d32, hn::Load(d, planes + 64 * (j / kPerPlane)));
    const int at = j % kPerPlane * kHighBits;
    const auto moved =
        at <= 4 ? hn::ShiftLeftSame(plane, 4 - at) : hn::ShiftRightSame(plane, at - 4);
    out[j] = hn::Or(out[j], hn::And(hn::BitCast(d, moved), mask));
  }
}

// What a chunk multiplies its integer sum and the activations' sum by; lanes of one part.
struct ChunkScales {
  VF d, m;
};

// Scales of the block of k; for formats with integer scales, without them.
template <DType kType>
HWY_INLINE ChunkScales block_scales(const uint8_t* group, int64_t K, int64_t k, int part) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  const int at = 2 * kLanes * part;
  ChunkScales scales{load_f16(group + kLayout.d(K, k) + at), hn::Zero(F32())};
  if constexpr (kLayout.minimum) scales.m = load_f16(group + kLayout.m(K, k) + at);
  return scales;
}

// The exact sum over a chunk, offset taken off; with 16 scales per block it includes them.
template <DType kType>
HWY_INLINE VI
chunk_sum(const VU8* codes, const uint8_t* group, int64_t k, int part, const QuantisedChunk& x) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  constexpr int kMax = max_code(kLayout);
  const I32 d;
  if constexpr (kLayout.scales == 16) {
    const int i = static_cast<int>(k % kLayout.block / 16);
    const int at = kLanes * part;
    const VI first = dots<kMax, 4>(hn::Set(d, x.start[0]), codes, x.q);
    const VI second = dots<kMax, 4>(hn::Set(d, x.start[1]), codes + 4, x.q + 16);
    return first * load_i8_as_i32(group + kLayout.scale(k, i) + at) +
           second * load_i8_as_i32(group + kLayout.scale(k, i + 1) + at);
  } else if constexpr (kLayout.minimum) {
    return dots<kMax, 8>(hn::Zero(d), codes, x.q);
  } else {
    return dots<kMax, 8>(hn::Set(d, x.start[0] + x.start[1]), codes, x.q);
  }
}

// One chunk: 32 k of kVectors x L rows, kTokens tokens, added to `sums`.
template <DType kType, int kTokens, int kVectors>
HWY_INLINE void add_chunk(
    const uint8_t* group,
    int64_t K,
    int64_t k,
    int part,
    const ChunkScales* block,
    const QuantisedChunk* x,
    VF (&sums)[kVectors][kTokens]
) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  const int64_t stride = K / kChunk;
#pragma GCC unroll 4
  for (int p = 0; p < kVectors; ++p) {
    const int at = kLanes * (part + p);
    VU8 codes[8];
    load_codes<kType>(group + kLayout.codes(k) + 4 * at, codes);
    if constexpr (kLayout.high_bits == 1 || kLayout.high_bits == 2)
      add_high_bits<kLayout.high_bits>(group + kLayout.codes(k) + 256 + 4 * at, codes);
    ChunkScales scales = block[p];
    if constexpr (kLayout.scales == 8) {
      const int i = static_cast<int>(k % kLayout.block / kChunk);
      scales.d = scales.d * load_u8(group + kLayout.scale(k, i) + at);
      scales.m = scales.m * load_u8(group + kLayout.minimum_scale(k, i) + at);
    }
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      const QuantisedChunk& chunk = x[t * stride + k / kChunk];
      const VI sum = chunk_sum<kType>(codes, group, k, part + p, chunk);
      if constexpr (kLayout.minimum)
        sums[p][t] = hn::MulAdd(scales.m, hn::Set(F32(), chunk.d_sum), sums[p][t]);
      const VF unit = scales.d * hn::Set(F32(), chunk.d);
      sums[p][t] = hn::MulAdd(hn::ConvertTo(F32(), sum), unit, sums[p][t]);
    }
  }
}

// A decode step reads each weight once: bring lines of the stream in ahead of their use, from
// memory to the second-level cache and from there to the first.
template <DType kType>
HWY_INLINE void prefetch_chunk(const uint8_t* group, int64_t k) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  constexpr int kBytes = (kLayout.block_stride() * kChunk / kLayout.block + 63) / 64 * 64;
  const uint8_t* codes = group + kLayout.codes(k);
#pragma GCC unroll 9
  for (int i = 0; i < kBytes; i += 64) {
    prefetch_near(codes + 2 * kBytes + i);
    prefetch_far(codes + 8192 + i);
  }
}

// Adds the product of each row's second digit to that of its first: 2 n rows of `width` become n.
inline void join_digits(float* tile, int rows, int width) {
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < width; ++i) {
      tile[r * width + i] = tile[2 * r * width + i] + tile[(2 * r + 1) * width + i];
    }
  }
}

// One group against kTokens rows of digits, from row m of them on.
template <DType kType, int kTokens>
HWY_NOINLINE void multiply_group(
    const GgufGemm& args,
    const uint8_t* group,
    int64_t n,
    int64_t m,
    int digits,
    const QuantisedChunk* x
) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  // Few tokens: all of a group's rows together, one pass over its bytes.
  constexpr int kVectors = kTokens <= 2 ? kParts : 1;
  const int64_t K = args.x.dim(1);
  for (int part = 0; part < kParts; part += kVectors) {
    VF sums[kVectors][kTokens];
#pragma GCC unroll 4
    for (int p = 0; p < kVectors; ++p) {
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) sums[p][t] = hn::Zero(F32());
    }
    for (int64_t block = 0; block < K; block += kLayout.block) {
      ChunkScales scales[kVectors];
#pragma GCC unroll 4
      for (int p = 0; p < kVectors; ++p) scales[p] = block_scales<kType>(group, K, block, part + p);
      for (int64_t k = block; k < block + kLayout.block; k += kChunk) {
        if constexpr (kTokens <= 8) prefetch_chunk<kType>(group, k);
        add_chunk<kType, kTokens, kVectors>(group, K, k, part, scales, x, sums);
      }
    }
    HWY_ALIGN float tile[kTokens * kVectors * kLanes];
#pragma GCC unroll 4
    for (int p = 0; p < kVectors; ++p) {
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t)
        hn::Store(sums[p][t], F32(), tile + (t * kVectors + p) * kLanes);
    }
    const int rows = kTokens / digits;
    if constexpr (kTokens % 2 == 0) {
      if (digits == 2) join_digits(tile, rows, kVectors * kLanes);
    }
    store_tile(args.y, args.bias, m / digits, n + part * kLanes, rows, kVectors * kLanes, tile);
  }
}

// All rows of digits against one group, in the largest tiles that fit; its bytes stay in the
// first-level cache after the first tile.
template <DType kType>
void multiply_tokens(
    const GgufGemm& args, const uint8_t* group, int64_t n, int digits, const QuantisedChunk* x
) {
  const int64_t M = digits * args.x.dim(0), stride = args.x.dim(1) / kChunk;
  for (int64_t m = 0; m < M;) {
    const int64_t left = M - m;
    const QuantisedChunk* from = x + m * stride;
    if (kMostTokens >= 12 && left >= 12) {
      multiply_group<kType, kMostTokens>(args, group, n, m, digits, from);
      m += 12;
    } else if (kMostTokens >= 8 && left >= 8) {
      multiply_group<kType, kManyRegisters ? 8 : 4>(args, group, n, m, digits, from);
      m += 8;
    } else if (left >= 4) {
      multiply_group<kType, 4>(args, group, n, m, digits, from);
      m += 4;
    } else if (left >= 2) {
      multiply_group<kType, 2>(args, group, n, m, digits, from);
      m += 2;
    } else {
      multiply_group<kType, 1>(args, group, n, m, digits, from);
      m += 1;
    }
  }
}

using MultiplyTokens = void (*)(
    const GgufGemm& args, const uint8_t* group, int64_t n, int digits, const QuantisedChunk* x
);

MultiplyTokens choose(DType packed) {
  switch (packed) {
    case DType::q8_0x16:
      return multiply_tokens<DType::q8_0x16>;
    case DType::q4_0x16:
      return multiply_tokens<DType::q4_0x16>;
    case DType::q4_1x16:
      return multiply_tokens<DType::q4_1x16>;
    case DType::q5_0x16:
      return multiply_tokens<DType::q5_0x16>;
    case DType::q5_1x16:
      return multiply_tokens<DType::q5_1x16>;
    case DType::q4_kx16:
      return multiply_tokens<DType::q4_kx16>;
    case DType::q5_kx16:
      return multiply_tokens<DType::q5_kx16>;
    default:
      return multiply_tokens<DType::q6_kx16>;
  }
}

void multiply(Exec& exec, const GgufGemm& args, int digits) {
  const int64_t M = args.x.dim(0), K = args.x.dim(1);
  const int64_t group_bytes = packed_layout(args.weight.dtype).group_bytes(K);
  const int offset = code_offset(args.weight.dtype);
  const MultiplyTokens multiply_rows = choose(args.weight.dtype);
  // Below this many rows each thread rounds all of x for itself: cheaper than waiting for another.
  const bool own_copy = M < 4;
  const int64_t copies = own_copy ? exec.threads() : 1;
  const int64_t copy_bytes =
      digits * M * (K / kChunk) * static_cast<int64_t>(sizeof(QuantisedChunk));
  Workspace::Mark mark(*exec.workspace);
  const Tensor rounded = exec.workspace->alloc(DType::u8, {copies, copy_bytes});
  const auto copy_of = [&](int64_t i) {
    return reinterpret_cast<QuantisedChunk*>(static_cast<uint8_t*>(rounded.data) + i * copy_bytes);
  };
  if (!own_copy) {
    exec.parallel_for(M, 1, [&](Range rows) {
      quantise_rows(args.x, rows.begin, rows.end, offset, digits, copy_of(0));
    });
  }
  exec.on_threads([&](int thread, int threads) {
    const Range groups = part(args.weight.dim(0) / kGroupRows, 1, thread, threads);
    if (groups.begin >= groups.end) return;
    QuantisedChunk* x = copy_of(own_copy ? thread : 0);
    if (own_copy) quantise_rows(args.x, 0, M, offset, digits, x);
    for (int64_t g = groups.begin; g < groups.end; ++g) {
      const uint8_t* group = static_cast<const uint8_t*>(args.weight.data) + g * group_bytes;
      multiply_rows(args, group, g * kGroupRows, digits, x);
    }
  });
}

}  // namespace

void gguf_gemm(Exec& exec, const GgufGemm& args) {
  multiply(exec, args, 2);
}

void gguf_gemm_int8(Exec& exec, const GgufGemm& args) {
  multiply(exec, args, 1);
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
