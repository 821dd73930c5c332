// TensorMap: how the bulk tensor copy engine (TMA) sees a matrix in device memory. Made on the host
// (about a microsecond; once per buffer and shape), passed to kernels as
// `const __grid_constant__ TensorMap`. The encoder is asked of the driver at run time: the program
// does not link libcuda.
#pragma once

#include <array>
#include <cstdint>

#include "fathom/core/dtype.h"

namespace fathom::cuda {

struct alignas(64) TensorMap {
  std::array<unsigned char, 128> bytes;
};

enum class Swizzle : uint8_t { none, bytes32, bytes64, bytes128 };

// A box of up to five dimensions, innermost first. Reads outside `dims` give zeros, and still count
// as bytes that arrived. Rules (CHECKed by the driver's encoder): data 16-byte aligned; strides
// multiples of 16 bytes; each box side <= 256; inner side a multiple of 16 bytes and at most the
// swizzle's span.
struct TensorBox {
  const void* data = nullptr;
  DType dtype = DType::bf16;
  int rank = 2;
  std::array<uint64_t, 5> dims{};          // elements
  std::array<uint64_t, 4> stride_bytes{};  // of dimensions 1..rank-1
  std::array<uint32_t, 5> box{};           // elements
  Swizzle swizzle = Swizzle::bytes128;
};

TensorMap make_tensor_map(const TensorBox& box);

// Rows of [rows, columns] with `row_bytes` between them; boxes of box_rows x box_columns.
TensorMap make_matrix_map(
    const void* data,
    DType dtype,
    int64_t rows,
    int64_t columns,
    int64_t row_bytes,
    int box_rows,
    int box_columns,
    Swizzle swizzle
);

}  // namespace fathom::cuda
