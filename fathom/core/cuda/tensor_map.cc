#include "fathom/core/cuda/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "fathom/base/check.h"
#include "fathom/core/cuda/cuda_error.h"

namespace fathom::cuda {
namespace {

constexpr int kEncoderVersion = 12000;

PFN_cuTensorMapEncodeTiled_v12000 find_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check(
      cudaGetDriverEntryPointByVersion(
          "cuTensorMapEncodeTiled", &function, kEncoderVersion, cudaEnableDefault, &found
      ),
      "cudaGetDriverEntryPointByVersion"
  );
  CHECK(function != nullptr, "the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

CUtensorMapDataType data_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    case DType::bf16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case DType::f16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    default:
      CHECK(info(dtype).block_bytes == 1, "no tensor map of {}", name(dtype));
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
  }
}

}  // namespace

TensorMap make_tensor_map(const TensorBox& box) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = find_encoder();
  constexpr std::array<cuuint32_t, 5> kEveryElement = {1, 1, 1, 1, 1};
  constexpr std::array<CUtensorMapSwizzle, 4> kSwizzles = {
      CU_TENSOR_MAP_SWIZZLE_NONE,
      CU_TENSOR_MAP_SWIZZLE_32B,
      CU_TENSOR_MAP_SWIZZLE_64B,
      CU_TENSOR_MAP_SWIZZLE_128B};
  CUtensorMap encoded;
  static_assert(sizeof(encoded) == sizeof(TensorMap));
  const CUresult code = encode(
      &encoded,
      data_type(box.dtype),
      static_cast<cuuint32_t>(box.rank),
      const_cast<void*>(box.data),
      reinterpret_cast<const cuuint64_t*>(box.dims.data()),
      reinterpret_cast<const cuuint64_t*>(box.stride_bytes.data()),
      box.box.data(),
      kEveryElement.data(),
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      kSwizzles[static_cast<size_t>(box.swizzle)],
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
  );
  CHECK(
      code == CUDA_SUCCESS,
      "tensor map of {} at {}: dims {} x {}, stride {} bytes, box {} x {}: driver error {}",
      name(box.dtype),
      box.data,
      box.dims[1],
      box.dims[0],
      box.stride_bytes[0],
      box.box[1],
      box.box[0],
      static_cast<int>(code)
  );
  TensorMap map;
  std::memcpy(map.bytes.data(), &encoded, sizeof(encoded));
  return map;
}

TensorMap make_matrix_map(
    const void* data,
    DType dtype,
    int64_t rows,
    int64_t columns,
    int64_t row_bytes,
    int box_rows,
    int box_columns,
    Swizzle swizzle
) {
  return make_tensor_map({
      .data = data,
      .dtype = dtype,
      .rank = 2,
      .dims = {static_cast<uint64_t>(columns), static_cast<uint64_t>(rows)},
      .stride_bytes = {static_cast<uint64_t>(row_bytes)},
      .box = {static_cast<uint32_t>(box_columns), static_cast<uint32_t>(box_rows)},
      .swizzle = swizzle,
  });
}

}  // namespace fathom::cuda
