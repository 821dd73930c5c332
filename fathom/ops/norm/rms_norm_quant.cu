// rms_norm_quant, row cuda_vec: a CTA per token, the row in registers from the sum to the codes;
// the largest magnitude of a group among the lanes that hold it.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/norm/norm_row.cuh"
#include "fathom/ops/norm/rms_norm_quant_rows.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

struct Codes {
  uint8_t* y;
  float* scale;
  int64_t y_stride, scale_stride;
  float eps;
  bool ue8m0;
};

__device__ __forceinline__ void store_codes(uint8_t* to, float (&v)[8], float scale) {
  *reinterpret_cast<uint2*>(to) = quantise(v, scale);
}
__device__ __forceinline__ void store_codes(uint8_t* to, float (&v)[4], float scale) {
  divide(v, scale);
  *reinterpret_cast<uint32_t*>(to) = device::pack_e4m3(v[0], v[1], v[2], v[3]);
}

template <class T, class W, int Vectors>
__global__ void __launch_bounds__(1024)
    norm_and_quantise(const norm::Rows<T, W> a, const Codes out) {
  using Row = norm::Row<T, W, Vectors>;
  constexpr int kLanes = kFp8Block / Row::kElements;  // of a group
  const int64_t token = blockIdx.x;
  Row row;
  row.load_weights(a);
  device::launch_successor();
  device::wait_for_predecessor();
  row.normalise(a, token);
#pragma unroll
  for (int v = 0; v < Vectors; ++v) {
    const int column = Row::column(v);
    const bool inside = column < a.columns;  // of whole groups of lanes the same
    float rounded[Row::kElements];
    Vec<T>::unpack(Vec<T>::pack(row.value[v]), rounded);
    const float scale = group_scale<kLanes>(rounded, out.eps, out.ue8m0);
    if (!inside) continue;
    store_codes(out.y + token * out.y_stride + column, rounded, scale);
    if (threadIdx.x % kLanes == 0) out.scale[column / kFp8Block * out.scale_stride + token] = scale;
  }
}

}  // namespace

bool rms_norm_quant_takes_cuda_vec(const Exec&, const RmsNormQuant& args) {
  return norm::fits(args.x) && norm::aligned(args.x) && norm::aligned(args.weight) &&
         (!args.residual.defined() || norm::aligned(args.residual)) && args.y.stride(0) % 8 == 0 &&
         reinterpret_cast<uintptr_t>(args.y.data) % 8 == 0;
}

void rms_norm_quant_cuda_vec(Exec& exec, const RmsNormQuant& args) {
  const Codes out{
      .y = args.y.as<uint8_t>(),
      .scale = args.scale.as<float>(),
      .y_stride = args.y.stride(0),
      .scale_stride = args.scale.stride(0),
      .eps = args.group_eps,
      .ue8m0 = args.ue8m0,
  };
  const dim3 grid(static_cast<unsigned>(args.x.dim(0)));
  norm::with_types(args.x.dtype, args.weight.dtype, [&](auto* x_type, auto* weight_type) {
    using T = std::remove_pointer_t<decltype(x_type)>;
    using W = std::remove_pointer_t<decltype(weight_type)>;
    norm::with_shape(args.x, [&](auto vectors, int threads) {
      cuda::launch(
          exec,
          "rms_norm_quant",
          {.grid = grid, .threads = threads},
          norm_and_quantise<T, W, vectors.value>,
          norm::rows_of<T, W>(args),
          out
      );
    });
  });
}

}  // namespace fathom::ops
