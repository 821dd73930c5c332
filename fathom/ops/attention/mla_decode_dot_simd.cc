// mla_decode of a bf16 cache by the bf16 dot instruction (mla_tile-inl.h): queries and weights are
// rounded to bf16, rows are read where they stand. A score's pairs are neighbouring values of a
// row, a sum's are the same value of two neighbouring rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/attention/mla_decode_dot_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET == HWY_AVX3_DL
#include "fathom/ops/attention/mla_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

using VPairs = hn::Vec<U32>;

HWY_INLINE void add_dots(VPairs a, VPairs b, VF& sum) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
}

// 32 values.
HWY_INLINE VPairs load_pairs(const uint16_t* from) {
  return hn::BitCast(U32(), hn::LoadU(hn::Repartition<uint16_t, F32>(), from));
}

// Lane 4 q + r: the sum of quarter q of sums[r].
HWY_INLINE __m512 fold_quarters(const VF* sums) {
  const auto fold = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  };
  const __m512d first = _mm512_castps_pd(fold(sums[0].raw, sums[1].raw));
  const __m512d second = _mm512_castps_pd(fold(sums[2].raw, sums[3].raw));
  return _mm512_add_ps(
      _mm512_castpd_ps(_mm512_unpacklo_pd(first, second)),
      _mm512_castpd_ps(_mm512_unpackhi_pd(first, second))
  );
}

class Bf16Rows {
 public:
  Bf16Rows(const MlaDecode& args, MlaSoftmax& softmax)
      : args_(args),
        softmax_(softmax),
        latent_(args.q_latent.dim(2)),
        size_(latent_ + args.q_rope.dim(2)) {}

  void start(int64_t lane, int64_t t, int64_t h) {
    round(args_.q_latent, t, h, query_[lane]);
    round(args_.q_rope, t, h, query_[lane] + latent_);
    std::fill_n(sum_[lane], latent_, 0.0f);
  }

  void load(int64_t j, int64_t offset) {
    rows_[j] = offset < 0 ? zero_ : static_cast<const uint16_t*>(args_.kv.data) + offset;
  }

  // Whole blocks: those of bf16 stay in the first-level cache.
  static constexpr int kScoreRows = kMlaBlock;
  static constexpr int kAddValues = kMlaMaxRow;

  template <int n>
  HWY_NOINLINE int64_t score(int64_t lane, int64_t) {
    for (int j = 0; j < kMlaBlock; j += kRows) {
      VF sums[n][kRows];
#pragma GCC unroll 16
      for (int i = 0; i < n * kRows; ++i) sums[i / kRows][i % kRows] = hn::Zero(F32());
      for (int64_t k = 0; k < size_; k += 2 * kLanes) {
        VPairs row[kRows];
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) row[r] = load_pairs(rows_[j + r] + k);
#pragma GCC unroll 4
        for (int i = 0; i < n; ++i) {
          const VPairs q = load_pairs(query_[lane + i] + k);
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) add_dots(q, row[r], sums[i][r]);
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i) store_scores(fold_quarters(sums[i]), lane + i, j);
    }
    return n;
  }

  template <int n>
  HWY_NOINLINE int64_t add(int64_t lane, int64_t) {
    const F32 d;
    alignas(64) uint32_t weights[n][kMlaBlock / 2];
    for (int i = 0; i < n; ++i) {
      const VF rounded = hn::Load(d, softmax_.scores[lane + i]);
      store_bf16(rounded, reinterpret_cast<uint16_t*>(weights[i]));
    }
    for (int64_t k = 0; k < latent_; k += kSums * kLanes) {
      VF sums[n][kSums];
#pragma GCC unroll 16
      for (int i = 0; i < n * kSums; ++i)
        sums[i / kSums][i % kSums] = hn::Mul(
            hn::Load(d, sum_[lane + i / kSums] + k + i % kSums * kLanes),
            hn::Set(d, softmax_.decay[lane + i / kSums])
        );
      for (int j = 0; j < kMlaBlock; j += 2) {
        VPairs both[kSums];
#pragma GCC unroll 2
        for (int v = 0; v < kSums; v += 2) {
          const __m512i even = load_pairs(rows_[j] + k + v * kLanes).raw;
          const __m512i odd = load_pairs(rows_[j + 1] + k + v * kLanes).raw;
          both[v] = VPairs{_mm512_unpacklo_epi16(even, odd)};
          both[v + 1] = VPairs{_mm512_unpackhi_epi16(even, odd)};
        }
#pragma GCC unroll 4
        for (int i = 0; i < n; ++i) {
          const VPairs weight = hn::Set(U32(), weights[i][j / 2]);
#pragma GCC unroll 4
          for (int v = 0; v < kSums; ++v) add_dots(both[v], weight, sums[i][v]);
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < n * kSums; ++i)
        hn::Store(sums[i / kSums][i % kSums], d, sum_[lane + i / kSums] + k + i % kSums * kLanes);
    }
    return n;
  }

  // add() leaves 32 columns as quarters 0 0 1 1 2 2 3 3 of its two vectors, fours in turn.
  const float* finish(int64_t lane) {
    const F32 d;
    for (float* at = sum_[lane]; at < sum_[lane] + latent_; at += 2 * kLanes) {
      const __m512 low = hn::Load(d, at).raw, high = hn::Load(d, at + kLanes).raw;
      const auto ordered = [](__m512 halves) { return _mm512_shuffle_f32x4(halves, halves, 0xd8); };
      hn::Store(VF{ordered(_mm512_shuffle_f32x4(low, high, 0x44))}, d, at);
      hn::Store(VF{ordered(_mm512_shuffle_f32x4(low, high, 0xee))}, d, at + kLanes);
    }
    return sum_[lane];
  }

 private:
  static constexpr int kRows = 4;  // of a score product at once
  static constexpr int kSums = 4;  // registers of a value product at once

  void round(const Tensor& q, int64_t t, int64_t h, uint16_t* to) const {
    with_element_type(q.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const T* from = element<T>(q, t * q.stride(0) + h * q.stride(1));
      for (int64_t i = 0; i < q.dim(2); i += kLanes) store_lanes(load_lanes(from + i), to + i);
    });
  }

  // Quarters of four rows' scores, added as ((0 + 2) + (1 + 3)).
  void store_scores(__m512 quarters, int64_t lane, int j) {
    const __m256 halves =
        _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
    const __m128 scores =
        _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
    _mm_store_ps(softmax_.scores[lane] + j, scores);
  }

  const MlaDecode& args_;
  MlaSoftmax& softmax_;
  int64_t latent_, size_;  // L, L + R
  const uint16_t* rows_[kMlaBlock];
  alignas(64) uint16_t query_[kMlaHeads][kMlaMaxRow];
  alignas(64) float sum_[kMlaHeads][kMlaMaxRow];
  alignas(64) uint16_t zero_[kMlaMaxRow] = {};
};

}  // namespace

void mla_decode_rounded(Exec& exec, const MlaDecode& args) {
  mla_decode_tiles<Bf16Rows>(exec, args);
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
