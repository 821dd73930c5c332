// Reading and writing one element of a plain float tensor as float, and reading one of int8: what
// reference kernels are written with.
#pragma once

#include "fathom/core/tensor.h"

namespace fathom::ops {

inline float load_element(const Tensor& t, int64_t offset) {
  switch (t.dtype) {
    case DType::f32:
      return static_cast<const float*>(t.data)[offset];
    case DType::bf16:
      return bf16_to_float(static_cast<const uint16_t*>(t.data)[offset]);
    case DType::f16:
      return f16_to_float(static_cast<const uint16_t*>(t.data)[offset]);
    case DType::f8e4m3:
      return f8e4m3_to_float(static_cast<const uint8_t*>(t.data)[offset]);
    case DType::i8:
      return static_cast<float>(static_cast<const int8_t*>(t.data)[offset]);
    default:
      CHECK(false, "an element of {} has no float value", t.describe());
  }
  return 0.0f;
}

inline void store_element(const Tensor& t, int64_t offset, float value) {
  switch (t.dtype) {
    case DType::f32:
      static_cast<float*>(t.data)[offset] = value;
      return;
    case DType::bf16:
      static_cast<uint16_t*>(t.data)[offset] = float_to_bf16(value);
      return;
    case DType::f16:
      static_cast<uint16_t*>(t.data)[offset] = float_to_f16(value);
      return;
    case DType::f8e4m3:
      static_cast<uint8_t*>(t.data)[offset] = float_to_f8e4m3(value);
      return;
    default:
      CHECK(false, "an element of {} has no float value", t.describe());
  }
}

}  // namespace fathom::ops
