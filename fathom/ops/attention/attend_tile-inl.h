// Attention of a tile of queries, all of one key head, over one span of positions: scores, softmax,
// weighted values. Spans are aligned to absolute position and joined in ascending order, so a
// query's bits depend on its position and the cache alone.
#if defined(FATHOM_OPS_ATTENTION_ATTEND_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_ATTENTION_ATTEND_TILE_INL_H_
#undef FATHOM_OPS_ATTENTION_ATTEND_TILE_INL_H_
#else
#define FATHOM_OPS_ATTENTION_ATTEND_TILE_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "fathom/ops/attention/attend_simd.h"
#include "fathom/ops/simd/exp-inl.h"
#include "fathom/ops/simd/outer_product-inl.h"
#include "fathom/ops/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

inline constexpr float kNothing = -std::numeric_limits<float>::infinity();
inline constexpr int kSpan = 128;    // positions
inline constexpr int kBlock = 32;    // positions whose keys are turned together
inline constexpr int kQueries = 32;  // of one key head, at work together
inline constexpr int kMostRows = kManyRegisters ? 6 : 3;  // queries whose sums the registers hold

// Softmax over some positions: the largest score, the sum of exponentials; weighted values beside.
struct SoftmaxState {
  float top = kNothing, total = 0;
};

// What one thread keeps. Rows of query, sum and span_sum follow one another without gaps.
struct AttendScratch {
  alignas(64) float query[kQueries * kAttendMaxDim];
  alignas(64) float sum[kQueries * kAttendMaxDim];
  alignas(64) float span_sum[kQueries * kAttendMaxDim];
  alignas(64) float scores[kQueries * kSpan];
  alignas(64) float keys[kAttendMaxDim * kBlock];  // [D][position]
  alignas(64) float values[kBlock * kAttendMaxDim];
  SoftmaxState state[kQueries], span_state[kQueries];
};

// The cache of one key head of one row.
struct CachedHead {
  const uint8_t* data = nullptr;  // of the head in page 0
  const int32_t* pages = nullptr;
  int64_t page_bytes = 0, slot_bytes = 0, page_size = 1;
  int64_t size = 0, row_bytes = 0;  // of a position

  CachedHead(const Tensor& cache, const int32_t* table, int64_t g) {
    const int64_t bytes = info(cache.dtype).block_bytes;
    data = static_cast<const uint8_t*>(cache.data) + g * cache.stride(1) * bytes;
    pages = table;
    page_bytes = cache.stride(0) * bytes;
    slot_bytes = cache.stride(2) * bytes;
    page_size = cache.dim(2);
    size = cache.dim(3);
    row_bytes = size * bytes;
  }
  // Where positions [from, from + n) lie.
  void find(int64_t from, int64_t n, const uint8_t** rows) const {
    int64_t page = from / page_size, slot = from % page_size;
    for (int64_t j = 0; j < n; ++page, slot = 0) {
      const uint8_t* row = data + pages[page] * page_bytes + slot * slot_bytes;
      const int64_t end = std::min(n, j + page_size - slot);
      for (; j < end; ++j, row += slot_bytes) rows[j] = row;
    }
  }
};

// Positions that will be read next: each is asked for while another is worked on, so that memory is
// busy evenly.
class Ahead {
 public:
  // Positions [from, from + n) of `head`, as far as they lie before `end`.
  Ahead(const CachedHead& head, int64_t from, int64_t n, int64_t end)
      : count_(std::clamp<int64_t>(end - from, 0, n)), bytes_(head.row_bytes) {
    head.find(from, count_, rows_);
  }
  HWY_INLINE void prefetch(int64_t j) const {
    if (j >= count_) return;
    for (int64_t line = 0; line < bytes_; line += 64) prefetch_far(rows_[j] + line);
  }

 private:
  const uint8_t* rows_[kBlock];
  int64_t count_, bytes_;
};

template <DType kType>
HWY_INLINE VF load_cached(const uint8_t* row, int64_t i) {
  if constexpr (kType == DType::f32) {
    return hn::LoadU(F32(), reinterpret_cast<const float*>(row) + i);
  } else if constexpr (kType == DType::bf16) {
    return load_bf16(reinterpret_cast<const uint16_t*>(row) + i);
  } else {
    return load_f16(row + 2 * i);
  }
}

// Keys of n <= kBlock positions from `from` on as [D][kBlock]; beyond n zero.
template <DType kType>
HWY_NOINLINE void turn_keys(
    const CachedHead& keys, int64_t from, int64_t n, const Ahead& ahead, float* to
) {
  const int64_t D = keys.size;
  const int64_t share = (kLanes * kLanes + D - 1) / D;  // of the rows ahead, with each square
  const uint8_t* rows[kBlock];
  keys.find(from, n, rows);
  int64_t asked = 0;
  for (int64_t j = 0; j < kBlock; j += kLanes) {
    for (int64_t i = 0; i < D; i += kLanes) {
      for (int64_t r = 0; r < share; ++r) ahead.prefetch(asked++);
      VF v[kLanes];
      if (j + kLanes <= n) {
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; ++r) v[r] = load_cached<kType>(rows[j + r], i);
      } else {
        for (int r = 0; r < kLanes; ++r)
          v[r] = j + r < n ? load_cached<kType>(rows[j + r], i) : hn::Zero(F32());
      }
      transpose_square(v);
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) hn::Store(v[r], F32(), to + (i + r) * kBlock + j);
    }
  }
}

// Values of n positions as [n][Dv].
template <DType kType>
HWY_NOINLINE void widen_values(
    const CachedHead& values, int64_t from, int64_t n, const Ahead& ahead, float* to
) {
  const int64_t Dv = values.size;
  const uint8_t* rows[kBlock];
  values.find(from, n, rows);
  for (int64_t j = 0; j < n; ++j) {
    ahead.prefetch(j);
    for (int64_t i = 0; i < Dv; i += kLanes)
      hn::Store(load_cached<kType>(rows[j], i), F32(), to + j * Dv + i);
  }
}

// Calls f with the constants kRows = kMostRows, or what is left, for rows [from, from + kRows).
template <class F>
HWY_INLINE void for_rows(int64_t n, const F& f) {
  int64_t from = 0;
  for (; from + kMostRows <= n; from += kMostRows)
    f(std::integral_constant<int, kMostRows>(), from);
  switch (n - from) {
    case 1:
      return f(std::integral_constant<int, 1>(), from);
    case 2:
      return f(std::integral_constant<int, 2>(), from);
    case 3:
      return f(std::integral_constant<int, 3>(), from);
    case 4:
      return f(std::integral_constant<int, 4>(), from);
    case 5:
      return f(std::integral_constant<int, 5>(), from);
    default:
      return;
  }
}

// scores[r * kSpan + j] = query r . key j, one chain of d per score.
template <int kRows>
HWY_NOINLINE void score_block(const float* query, const float* keys, int64_t D, float* scores) {
  const F32 d;
  constexpr int kVectors = kManyRegisters ? 2 : 4;
  for (int part = 0; part < kBlock; part += kVectors * kLanes) {
    VF sums[kRows][kVectors];
#pragma GCC unroll 24
    for (int i = 0; i < kRows * kVectors; ++i) sums[i / kVectors][i % kVectors] = hn::Zero(d);
    for (int64_t i = 0; i < D; ++i) {
      add_outer_product(
          sums,
          [&](int r) { return hn::Set(d, query[r * D + i]); },
          [&](int v) { return hn::Load(d, keys + i * kBlock + part + v * kLanes); }
      );
    }
#pragma GCC unroll 24
    for (int i = 0; i < kRows * kVectors; ++i)
      hn::Store(
          sums[i / kVectors][i % kVectors],
          d,
          scores + i / kVectors * kSpan + part + i % kVectors * kLanes
      );
  }
}

// Values of a block as add_values reads them: widened, or where they stand in the cache.
struct WideValues {
  const float* values;  // [n][Dv]
  int64_t Dv;
  HWY_INLINE VF load(int64_t j, int64_t i) const { return hn::Load(F32(), values + j * Dv + i); }
};
template <DType kType>
struct CachedValues {
  const uint8_t* const* rows;
  const Ahead& ahead;
  HWY_INLINE VF load(int64_t j, int64_t i) const {
    if (i == 0) ahead.prefetch(j);
    return load_cached<kType>(rows[j], i);
  }
};

// sum[r, i + ..] += weights[r, j] value[j, i + ..] for j < n, ascending, over kVectors of i.
template <int kRows, int kVectors, class Values>
HWY_INLINE void add_values_part(
    const float* weights, const Values& values, int64_t n, int64_t i, int64_t Dv, float* sum
) {
  const F32 d;
  VF sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::LoadU(d, sum + r * Dv + i + v * kLanes);
  }
  for (int64_t j = 0; j < n; ++j) {
    add_outer_product(
        sums,
        [&](int r) { return hn::Set(d, weights[r * kSpan + j]); },
        [&](int v) { return values.load(j, i + v * kLanes); }
    );
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[r][v], d, sum + r * Dv + i + v * kLanes);
  }
}

template <int kRows, class Values>
HWY_NOINLINE void add_values(
    const float* weights, const Values& values, int64_t n, int64_t Dv, float* sum
) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= Dv; i += 4 * kLanes)
    add_values_part<kRows, 4>(weights, values, n, i, Dv, sum);
  for (; i < Dv; i += kLanes) add_values_part<kRows, 1>(weights, values, n, i, Dv, sum);
}

// Scores of `n` positions, scaled and those outside [low, high) left out, become exp(score - top);
// sums go by 16 lanes on every level.
inline SoftmaxState soften(float* scores, int64_t n, int64_t low, int64_t high, float scale) {
  const F32 d;
  for (int64_t j = 0; j < std::min(low, n); ++j) scores[j] = kNothing;
  for (int64_t j = std::max<int64_t>(high, 0); j < n; ++j) scores[j] = kNothing;
  VF most = hn::Set(d, kNothing);
  for (int64_t j = 0; j < n; j += kLanes) {
    const VF scaled = hn::Load(d, scores + j) * hn::Set(d, scale);
    hn::Store(scaled, d, scores + j);
    most = hn::Max(most, scaled);
  }
  SoftmaxState state{.top = hn::GetLane(hn::MaxOfLanes(d, most))};
  VF totals[16 / kLanes];
  for (VF& total : totals) total = hn::Zero(d);
  for (int64_t j = 0; j < n; j += 16) {
#pragma GCC unroll 4
    for (int i = 0; i < 16 / kLanes; ++i) {
      const VF score = hn::Load(d, scores + j + i * kLanes);
      const VF weight = exponential(score - hn::Set(d, state.top));
      const VF kept = hn::IfThenZeroElse(score == hn::Set(d, kNothing), weight);
      hn::Store(kept, d, scores + j + i * kLanes);
      totals[i] = totals[i] + kept;
    }
  }
  alignas(64) float lanes[16];
  for (int i = 0; i < 16 / kLanes; ++i) hn::Store(totals[i], d, lanes + i * kLanes);
  for (int width = 8; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  state.total = lanes[0];
  return state;
}

// Joins a later span's softmax and weighted values to an earlier one's.
inline void join_span(
    SoftmaxState& state, float* sum, const SoftmaxState& span, const float* span_sum, int64_t Dv
) {
  if (span.top == kNothing) return;
  const F32 d;
  const float top = std::max(state.top, span.top);
  const float keep = state.top == kNothing ? 0.0f : std::exp(state.top - top);
  const float add = std::exp(span.top - top);
  state.total = state.total * keep + span.total * add;
  state.top = top;
  for (int64_t i = 0; i < Dv; i += kLanes) {
    const VF kept = hn::LoadU(d, sum + i) * hn::Set(d, keep);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, span_sum + i), hn::Set(d, add), kept), d, sum + i);
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
