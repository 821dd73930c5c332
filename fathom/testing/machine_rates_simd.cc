// The probes, compiled for every level.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/testing/machine_rates_simd.cc"
#include <hwy/foreach_target.h>
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/simd/lanes-inl.h"
#include "fathom/testing/machine_rates_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::testing::HWY_NAMESPACE {
namespace {

namespace simd = ops::HWY_NAMESPACE;
namespace hn = hwy::HWY_NAMESPACE;

// Enough independent chains to cover the latency of a multiply-add on two ports.
constexpr int kChains = simd::kManyRegisters ? 16 : 10;

uint64_t read(const void* data, int64_t bytes) {
  const simd::U32 d;
  const auto* from = static_cast<const uint8_t*>(data);
  auto a = hn::Zero(d), b = a, c = a, e = a;
  constexpr int kStep = simd::kLanes * 4;
  for (int64_t i = 0; i < bytes; i += 4 * kStep) {
    for (int line = 0; line < 4 * kStep; line += 64) simd::prefetch_near(from + i + 2048 + line);
    const auto* at = reinterpret_cast<const uint32_t*>(from + i);
    a = hn::Xor(a, hn::Load(d, at));
    b = hn::Xor(b, hn::Load(d, at + simd::kLanes));
    c = hn::Xor(c, hn::Load(d, at + 2 * simd::kLanes));
    e = hn::Xor(e, hn::Load(d, at + 3 * simd::kLanes));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Xor(hn::Xor(a, b), hn::Xor(c, e))));
}

float float_products(int64_t rounds) {
  const simd::F32 d;
  simd::VF sums[kChains];
  const simd::VF x = hn::Set(d, static_cast<float>(rounds) * 1e-9f), one = hn::Set(d, 0.5f);
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) sums[i] = hn::Set(d, static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sums[i] = hn::MulAdd(sums[i], one, x);
  }
  simd::VF sum = sums[0];
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) sum = sum + sums[i];
  return hn::GetLane(sum);
}

int32_t byte_products(int64_t rounds) {
  simd::VI sums[kChains];
  simd::VU8 codes[1] = {hn::Set(simd::U8(), static_cast<uint8_t>(rounds & 15))};
  alignas(16) const int8_t x[4] = {1, 2, 3, 4};
  const auto quad = [&x](int) HWY_ATTR { return x; };
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) sums[i] = hn::Zero(simd::I32());
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sums[i] = simd::dots<15, 1>(sums[i], codes, quad);
    codes[0] = hn::Xor(codes[0], hn::Set(simd::U8(), 1));
  }
  simd::VI sum = sums[0];
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) sum = sum + sums[i];
  return hn::GetLane(sum);
}

#if HWY_TARGET == HWY_AVX3_DL
float bf16_products(int64_t rounds) {
  const simd::F32 d;
  simd::VF sums[kChains];
  const simd::VF x = hn::Set(d, static_cast<float>(rounds)), w = hn::Set(d, 0.5f);
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) sums[i] = hn::Zero(d);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i)
      asm("vdpbf16ps %2, %1, %0" : "+v"(sums[i].raw) : "v"(w.raw), "v"(x.raw));
  }
  simd::VF sum = sums[0];
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) sum = sum + sums[i];
  return hn::GetLane(sum);
}
#endif

}  // namespace

RateKernels rate_kernels() {
  return {
    .read = read, .float_products = float_products, .byte_products = byte_products,
    .float_adds_per_round = kChains * simd::kLanes,
    .byte_adds_per_round = kChains * simd::kLanes * 4,
#if HWY_TARGET == HWY_AVX3_DL
    .bf16_products = bf16_products, .bf16_adds_per_round = kChains * simd::kLanes * 2,
#endif
  };
}

}  // namespace fathom::testing::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
