// Rows of f32 or bf16 as vectors of float, tails included.
#if defined(FATHOM_OPS_SIMD_ELEMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_SIMD_ELEMENTS_INL_H_
#undef FATHOM_OPS_SIMD_ELEMENTS_INL_H_
#else
#define FATHOM_OPS_SIMD_ELEMENTS_INL_H_
#endif

#include <algorithm>

#include "fathom/core/tensor.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// uint16_t stands for bf16.
HWY_INLINE VF load_lanes(const float* from) {
  return hn::LoadU(F32(), from);
}
HWY_INLINE VF load_lanes(const uint16_t* from) {
  return load_bf16(from);
}
HWY_INLINE void store_lanes(VF value, float* to) {
  hn::StoreU(value, F32(), to);
}
HWY_INLINE void store_lanes(VF value, uint16_t* to) {
  store_bf16(value, to);
}

// The first n <= L of them; the other lanes are zero, or left alone.
template <class T>
HWY_INLINE VF load_some(const T* from, int64_t n) {
  if (n >= kLanes) return load_lanes(from);
  T lanes[kLanes] = {};
  std::copy_n(from, n, lanes);
  return load_lanes(lanes);
}
template <class T>
HWY_INLINE void store_some(VF value, T* to, int64_t n) {
  if (n >= kLanes) return store_lanes(value, to);
  T lanes[kLanes];
  store_lanes(value, lanes);
  std::copy_n(lanes, n, to);
}

// Calls f with a null pointer of the type that an f32 or bf16 tensor's elements have here.
template <class F>
void with_element_type(DType dtype, const F& f) {
  if (dtype == DType::f32) {
    f(static_cast<float*>(nullptr));
  } else {
    f(static_cast<uint16_t*>(nullptr));
  }
}
// Element `offset` of a tensor.
template <class T>
T* element(const Tensor& t, int64_t offset) {
  return static_cast<T*>(t.data) + offset;
}

// A sum in 32 lanes on every level, so that all agree bit for bit: element i is added to lane i %
// 32 in ascending i, lanes are folded in halves.
class WideSum {
 public:
  WideSum() {
    for (VF& sum : sums_) sum = hn::Zero(F32());
  }
  // v = 0 .. 31 / L: which lanes.
  HWY_INLINE void add_product(int v, VF a, VF b) { sums_[v] = hn::MulAdd(a, b, sums_[v]); }
  float total() const {
    alignas(64) float lanes[kWide];
    for (int v = 0; v < kVectors; ++v) hn::Store(sums_[v], F32(), lanes + v * kLanes);
    for (int width = kWide / 2; width > 0; width /= 2) {
      for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
    }
    return lanes[0];
  }
  static constexpr int kWide = 32;
  static constexpr int kVectors = kWide / kLanes;

 private:
  VF sums_[kVectors];
};

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
