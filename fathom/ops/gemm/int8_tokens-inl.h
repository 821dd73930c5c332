// Tokens rounded to int8 with one scale each, and their integer dots with rows of packed int8
// weights (w8a8_gemm.h). Sums are exact: nothing here depends on the order of adding.
#if defined(FATHOM_OPS_GEMM_INT8_TOKENS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_INT8_TOKENS_INL_H_
#undef FATHOM_OPS_GEMM_INT8_TOKENS_INL_H_
#else
#define FATHOM_OPS_GEMM_INT8_TOKENS_INL_H_
#endif

#include <bit>

#include "fathom/core/exec.h"
#include "fathom/ops/gemm/block_tile-inl.h"
#include "fathom/ops/quant/int8_rows.h"
#include "fathom/ops/simd/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

inline constexpr int kInt8Tile = kTileTokens<1>;  // tokens whose chunks are interleaved

// 32 activations of a token. Those of a tile's tokens lie side by side.
struct Int8Chunk {
  int8_t q[kChunk];
};

constexpr int64_t int8_chunk(int64_t m, int64_t k, int64_t K) {
  return tile_index(m, k, K, kInt8Tile) * kInt8Tile + m % kInt8Tile;
}

// Tokens whose chunks begin at `chunk`, as Dots reads them.
struct Int8TokensAt {
  const Int8Chunk* chunk;

  template <int kTokens>
  const int8_t* quad(int t, int, int j) const {
    return chunk[t].q + 4 * j;
  }
};

// Tokens from 0 on: token m, k at int8_chunk(m, k, K).
struct Int8Tokens {
  Int8Chunk* chunks;
  float* scale;
  int32_t* start;  // what the weights' codes, 128 too large, take off a token's sums
};

// Workspace of `copies` times M tokens of K values, a multiple of 32.
class Int8TokenMemory {
 public:
  Int8TokenMemory(Exec& exec, int64_t copies, int64_t M, int64_t K) {
    const int64_t tokens = (M + kInt8Tile - 1) / kInt8Tile * kInt8Tile;
    chunks_ = exec.workspace->alloc(DType::i8, {copies, tokens * K});
    scale_ = exec.workspace->alloc(DType::f32, {copies, tokens});
    start_ = exec.workspace->alloc(DType::i32, {copies, tokens});
  }
  Int8Tokens of(int64_t copy) const {
    return {
        static_cast<Int8Chunk*>(chunks_.row(copy).data),
        scale_.row(copy).as<float>(),
        start_.row(copy).as<int32_t>()};
  }

 private:
  Tensor chunks_, scale_, start_;
};

// Token m's K values at x, f32 or bf16.
template <class T>
void round_token(const T* x, int64_t K, int64_t m, const Int8Tokens& to) {
  const I32 di;
  const hn::Rebind<int8_t, F32> d8;
  // As integers magnitudes are in order, and NaN is the largest: the scale becomes NaN with it.
  VI most = hn::Zero(di);
  for (int64_t k = 0; k < K; k += kLanes)
    most = hn::Max(most, hn::BitCast(di, hn::Abs(load_lanes(x + k))));
  const Int8Scale scale =
      Int8Scale::of(std::bit_cast<float>(hn::GetLane(hn::MaxOfLanes(di, most))));
  const VF inverse = hn::Set(F32(), scale.inverse);
  VI sum = hn::Zero(di);
  Int8Chunk* chunk = to.chunks + int8_chunk(m, 0, K);
  for (int64_t k = 0; k < K; k += kChunk, chunk += kInt8Tile) {
#pragma GCC unroll 8
    for (int i = 0; i < kChunk; i += kLanes) {
      const VI code = hn::NearestInt(load_lanes(x + k + i) * inverse);
      sum = sum + code;
      hn::StoreU(hn::DemoteTo(d8, code), d8, chunk->q + i);
    }
  }
  to.scale[m] = scale.scale;
  to.start[m] = -128 * hn::GetLane(hn::SumOfLanes(di, sum));
}

// Rows `tokens` of x [M, K].
inline void round_tokens(const Tensor& x, Range tokens, const Int8Tokens& to) {
  with_element_type(x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (int64_t m = tokens.begin; m < tokens.end; ++m)
      round_token(element<T>(x, m * x.stride(0)), x.dim(1), m, to);
  });
}

// Vectors of rows first, first + 1, ... of a packed matrix.
template <int kVectors>
HWY_INLINE void int8_rows_at(const Tensor& w, int64_t first, RowsAt (&rows)[kVectors]) {
  const int64_t group_bytes = packed_layout(DType::i8x16).group_bytes(w.dim(1));
  for (int v = 0; v < kVectors; ++v) {
    const auto* groups = static_cast<const uint8_t*>(w.data);
    rows[v] = {groups + (first + v) / kParts * group_bytes, static_cast<int>((first + v) % kParts)};
  }
}

// tile[t * kVectors * L + i]: rows of kVectors vectors from `first` on times kTokens tokens from m
// on, scaled. `streams`: the weights come from memory now.
template <int kTokens, int kVectors>
HWY_NOINLINE void multiply_int8_tile(
    const QTensor& w, int64_t first, const Int8Tokens& x, int64_t m, bool streams, float* tile
) {
  constexpr DType kType = DType::i8x16;
  constexpr PackedLayout kLayout = packed_layout(kType);
  constexpr int kGroups = kVectors > kParts ? kVectors / kParts : 1;
  const int64_t K = w.data.dim(1);
  RowsAt rows[kVectors];
  int8_rows_at(w.data, first, rows);
  Int8TokensAt at{x.chunks + int8_chunk(m, 0, K)};
  Dots<1, kTokens, kVectors> dots;
  dots.begin_at(x.start + m);
  for (int64_t k = 0; k < K; k += kChunk, at.chunk += kInt8Tile) {
    const uint8_t* codes[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      if (streams && rows[v].part == 0) prefetch_stream<kType>(rows[v].group, K, k, kGroups);
      codes[v] = rows[v].group + kLayout.codes(k) + 4 * kLanes * rows[v].part;
    }
    const auto planes = [&codes](int v, int j) HWY_ATTR { return code_vector<kType>(codes[v], j); };
    dots.template add_half<kType>(planes, 0, at);
    dots.template add_half<kType>(planes, 1, at);
  }
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const int64_t n = (first + v) * kLanes;
    const VF channel = load_some(w.scale.as<float>() + n, std::max<int64_t>(w.scale.dim(0) - n, 0));
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const VF sum = hn::ConvertTo(F32(), dots.sum[v][t][0]);
      hn::Store(
          sum * hn::Set(F32(), x.scale[m + t]) * channel, F32(), tile + (t * kVectors + v) * kLanes
      );
    }
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
