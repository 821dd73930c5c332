// Tensor: a trivially copyable view of memory that somebody else owns (weights, KV or workspace).
// No allocation, no arithmetic, no conversion. Dims and strides count elements, outermost first;
// the innermost stride is 1. A block or packed dtype strides by whole blocks: its data is
// contiguous, outer strides are products of dims.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "fathom/base/check.h"
#include "fathom/core/device.h"
#include "fathom/core/dtype.h"

namespace fathom {

struct Tensor {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  DType dtype = DType::f32;
  Device device = {};
  int rank = 0;
  std::array<int64_t, kMaxRank> dims{};
  std::array<int64_t, kMaxRank> strides{};

  // A contiguous view of `data`.
  static Tensor of(void* data, DType dtype, Device device, std::initializer_list<int64_t> dims);

  bool defined() const { return rank > 0; }
  int64_t dim(int i) const { return dims[static_cast<size_t>(i < 0 ? rank + i : i)]; }
  int64_t stride(int i) const { return strides[static_cast<size_t>(i < 0 ? rank + i : i)]; }
  int64_t elements() const;
  int64_t bytes() const { return bytes_of(dtype, elements()); }  // of a contiguous tensor
  bool contiguous() const;

  // The slice [from, from + n) of dimension d; plain dtypes, or d = 0 of a block dtype.
  Tensor slice(int d, int64_t from, int64_t n) const;
  // Element i of the outermost dimension, one rank less.
  Tensor row(int64_t i) const;
  // The same elements under other dims; needs a contiguous tensor.
  Tensor reshape(std::initializer_list<int64_t> new_dims) const;

  // Typed pointer; CHECKs the dtype.
  template <class T>
  T* as() const;
  // "bf16[4,576] on cpu", for messages.
  std::string describe() const;
};

// A weight and its scales travel as one value. `scale` is undefined for dtypes that need none
// (plain or blocks with scales inside). FP8: scale is f32 [ceil(N/128), ceil(K/128)].
struct QTensor {
  Tensor data;  // [N, K]
  Tensor scale;
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr bool matches(DType d) { return d == DType::f32; }
};
template <>
struct DTypeOf<uint16_t> {  // raw bits of bf16 or f16
  static constexpr bool matches(DType d) { return d == DType::bf16 || d == DType::f16; }
};
template <>
struct DTypeOf<uint8_t> {  // raw bytes: fp8, u8 and every block dtype
  static constexpr bool matches(DType d) {
    return d == DType::u8 || d == DType::f8e4m3 || d >= DType::q8_0;
  }
};
template <>
struct DTypeOf<int8_t> {
  static constexpr bool matches(DType d) { return d == DType::i8; }
};
template <>
struct DTypeOf<int32_t> {
  static constexpr bool matches(DType d) { return d == DType::i32; }
};
template <>
struct DTypeOf<int64_t> {
  static constexpr bool matches(DType d) { return d == DType::i64; }
};

template <class T>
T* Tensor::as() const {
  CHECK(DTypeOf<T>::matches(dtype), "{} read as another element type", describe());
  return static_cast<T*>(data);
}

}  // namespace fathom
