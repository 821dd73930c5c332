// mla_decode on vectors of floats (mla_tile-inl.h): rows that the cache holds in another form are
// decoded once for all lanes of a tile. One source, compiled for AVX2, AVX-512 and NEON.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/attention/mla_decode_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include <cstring>

#include "fathom/ops/attention/mla_tile-inl.h"
#include "fathom/ops/simd/outer_product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

class FloatRows {
 public:
  FloatRows(const MlaDecode& args, MlaSoftmax& softmax)
      : args_(args),
        softmax_(softmax),
        latent_(args.q_latent.dim(2)),
        size_(latent_ + args.q_rope.dim(2)) {
    if (args.kv.dtype != DType::u8) return;
    for (int code = 0; code < 256; ++code)
      codes_[code] = f8e4m3_to_float(static_cast<uint8_t>(code));
  }

  void start(int64_t lane, int64_t t, int64_t h) {
    const Tensor& q = args_.q_latent;
    const Tensor& rope = args_.q_rope;
    load_floats(q, t * q.stride(0) + h * q.stride(1), latent_, query_[lane]);
    load_floats(
        rope, t * rope.stride(0) + h * rope.stride(1), size_ - latent_, query_[lane] + latent_
    );
    std::fill_n(sum_[lane], latent_, 0.0f);
  }

  void load(int64_t j, int64_t offset) {
    rows_[j] = decoded_[j];
    if (offset < 0) {
      std::fill_n(decoded_[j], size_, 0.0f);
    } else if (args_.kv.dtype == DType::f32) {
      rows_[j] = static_cast<const float*>(args_.kv.data) + offset;
    } else if (args_.kv.dtype == DType::bf16) {
      load_floats(args_.kv, offset, size_, decoded_[j]);
    } else {
      load_codes(args_.kv.as<uint8_t>() + offset, decoded_[j]);
    }
  }

  static constexpr int kScoreRows = 4;
  static constexpr int kAddValues = 64;

  template <int n>
  HWY_NOINLINE int64_t score(int64_t lane, int64_t from) {
    const F32 d;
    for (int64_t j = from; j < from + kScoreRows; j += kSide) {
      VF sums[n][kSide];
#pragma GCC unroll 16
      for (int i = 0; i < n * kSide; ++i) sums[i / kSide][i % kSide] = hn::Zero(d);
      for (int64_t k = 0; k < size_; k += kLanes) {
        add_outer_product(
            sums,
            [&](int i) { return hn::Load(d, query_[lane + i] + k); },
            [&](int r) { return hn::LoadU(d, rows_[j + r] + k); }
        );
      }
#pragma GCC unroll 16
      for (int i = 0; i < n * kSide; ++i)
        softmax_.scores[lane + i / kSide][j + i % kSide] =
            hn::GetLane(hn::SumOfLanes(d, sums[i / kSide][i % kSide]));
    }
    return n;
  }

  template <int n>
  HWY_NOINLINE int64_t add(int64_t lane, int64_t from) {
    const F32 d;
    for (int64_t k = from; k < from + kAddValues; k += kSide * kLanes) {
      VF sums[n][kSide];
#pragma GCC unroll 16
      for (int i = 0; i < n * kSide; ++i)
        sums[i / kSide][i % kSide] = hn::Mul(
            hn::Load(d, sum_[lane + i / kSide] + k + i % kSide * kLanes),
            hn::Set(d, softmax_.decay[lane + i / kSide])
        );
      for (int j = 0; j < kMlaBlock; ++j) {
        add_outer_product(
            sums,
            [&](int i) { return hn::Set(d, softmax_.scores[lane + i][j]); },
            [&](int v) { return hn::LoadU(d, rows_[j] + k + v * kLanes); }
        );
      }
#pragma GCC unroll 16
      for (int i = 0; i < n * kSide; ++i)
        hn::Store(sums[i / kSide][i % kSide], d, sum_[lane + i / kSide] + k + i % kSide * kLanes);
    }
    return n;
  }

  const float* finish(int64_t lane) const {
    return sum_[lane];
  }

 private:
  // Rows of a score product, vectors of a value product, whose sums of four lanes are in registers.
  static constexpr int kSide = kManyRegisters ? 4 : 2;

  // n values from element `offset` of a float tensor on.
  static void load_floats(const Tensor& from, int64_t offset, int64_t n, float* to) {
    with_element_type(from.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const T* values = element<T>(from, offset);
      for (int64_t i = 0; i < n; i += kLanes) store_lanes(load_lanes(values + i), to + i);
    });
  }

  // load_mla_row of an FP8 row on vectors.
  void load_codes(const uint8_t* bytes, float* to) const {
    const hn::Rebind<uint8_t, F32> codes;
    for (int64_t i = 0; i < latent_; i += kLanes) {
      float scale;
      std::memcpy(&scale, bytes + latent_ + i / 128 * 4, sizeof(scale));
      const VI code = hn::PromoteTo(I32(), hn::LoadU(codes, bytes + i));
      hn::Store(hn::GatherIndex(F32(), codes_, code) * hn::Set(F32(), scale), F32(), to + i);
    }
    const auto* rope = reinterpret_cast<const uint16_t*>(bytes + latent_ + latent_ / 128 * 4);
    for (int64_t i = 0; i < size_ - latent_; i += kLanes)
      hn::Store(load_bf16(rope + i), F32(), to + latent_ + i);
  }

  const MlaDecode& args_;
  MlaSoftmax& softmax_;
  int64_t latent_, size_;  // L, L + R
  const float* rows_[kMlaBlock];
  alignas(64) float query_[kMlaHeads][kMlaMaxRow];
  alignas(64) float sum_[kMlaHeads][kMlaMaxRow];
  alignas(64) float decoded_[kMlaBlock][kMlaMaxRow];
  alignas(64) float codes_[256];  // values of FP8 codes, where the cache holds them
};

}  // namespace

void mla_decode(Exec& exec, const MlaDecode& args) {
  mla_decode_tiles<FloatRows>(exec, args);
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
