// grouped_moe, row cuda_plain: a thread per output of every product, sums in float. Takes every
// shape and layout; on a GPU it is also what large cases are compared with. Where scales are one
// per channel, x and h are rounded as whole rows by a kernel between the products.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/fp8.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/moe/grouped_moe_rows.h"
#include "fathom/ops/quant/fp8_rows.h"
#include "fathom/ops/quant/int8_rows.h"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops {
namespace {

constexpr int kThreads = 128;
constexpr float kEps = 1e-10f;

enum class Weight : uint8_t { f32, bf16, e4m3, i8 };

struct Matrix {  // [E, N, K]
  const uint8_t* data;
  const float* scale;  // null: none
  int64_t rows;        // stored, of an expert
  int64_t N, K;
  Weight type;
  bool tiled;
  bool channels;  // a scale per row

  __device__ float load(int64_t expert, int64_t n, int64_t k) const {
    const int64_t size = type == Weight::f32 ? 4 : type == Weight::bf16 ? 2 : 1;
    const int64_t row = expert * rows + n;
    const uint8_t* p = data + (tiled ? tile_offset(row, k * size, K * size) : (row * K + k) * size);
    if (type == Weight::f32) return *reinterpret_cast<const float*>(p);
    if (type == Weight::bf16) return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(p));
    return type == Weight::i8 ? static_cast<float>(static_cast<int8_t>(*p))
                              : device::unpack_e4m3(*p).x;
  }
  __device__ float factor(int64_t expert, int64_t n, int64_t k) const {
    if (scale == nullptr) return 1.0f;
    if (channels) return scale[expert * N + n];
    const int64_t blocks = (K + kFp8Block - 1) / kFp8Block;
    const int64_t row_blocks = (N + kFp8Block - 1) / kFp8Block;
    return scale[(expert * row_blocks + n / kFp8Block) * blocks + k / kFp8Block];
  }
  // The product of row n with x.
  __device__ float dot(int64_t expert, int64_t n, const float* x) const {
    float sum = 0;
    for (int64_t begin = 0; begin < K; begin += kFp8Block) {
      const int64_t stop = min(K, begin + kFp8Block);
      float part = 0;
      for (int64_t k = begin; k < stop; ++k) part = fmaf(x[k], load(expert, n, k), part);
      sum = fmaf(factor(expert, n, begin), part, sum);
    }
    return sum;
  }
};

struct Arguments {
  Matrix gate_up, down;
  const void* x;
  const void* addend;
  void* y;
  const int32_t* ids;
  const float* weights;
  float* x_values;  // [T, C], quantised where asked for
  float* h;         // [T k, I]
  int64_t x_stride, addend_stride, y_stride, ids_stride, weights_stride;
  int64_t C, I;
  int k;
  bool wide, quantise, ue8m0;  // quantise: by groups of 128, as they are made
};

__device__ float load(const void* p, int64_t i, bool wide) {
  return wide ? static_cast<const float*>(p)[i]
              : __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
}

// v as a product with the scale of its group of 128 sees it; one group a CTA of 128 threads.
__device__ float quantised(float v, bool ue8m0) {
  __shared__ float largest[kThreads];
  __syncthreads();
  largest[threadIdx.x] = fabsf(v);
  __syncthreads();
  float amax = kEps;
  for (const float other : largest) amax = fmaxf(amax, other);
  const float scale = group_scale(amax, ue8m0);
  return device::unpack_e4m3(device::pack_e4m3(v / scale, 0)).x * scale;
}

__global__ void __launch_bounds__(kThreads) read_x(const Arguments a) {
  device::wait_for_predecessor();
  const int64_t c = int64_t{blockIdx.y} * kThreads + threadIdx.x, token = blockIdx.x;
  const float v = c < a.C ? load(a.x, token * a.x_stride + c, a.wide) : 0.0f;
  const float kept = a.quantise ? quantised(v, a.ue8m0) : v;
  if (c < a.C) a.x_values[token * a.C + c] = kept;
}

// A row of n values as products with its codes see it, a CTA a row. Magnitudes as integers are in
// order, NaN the largest: it becomes the scale.
template <class Scale>
__global__ void __launch_bounds__(kThreads) round_rows(float* values, int64_t n) {
  __shared__ uint32_t largest[kThreads / 32];
  device::wait_for_predecessor();
  float* row = values + blockIdx.x * n;
  uint32_t most = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads)
    most = max(most, __float_as_uint(row[i]) & 0x7fffffffu);
  most = __reduce_max_sync(0xffffffffu, most);
  if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = most;
  __syncthreads();
  for (const uint32_t other : largest) most = max(most, other);
  const float amax = __uint_as_float(most);
  const float scale = Scale::of(amax);
  for (int64_t i = threadIdx.x; i < n; i += kThreads)
    row[i] = Scale::code(row[i], amax, scale) * scale;
}

// As Int8Scale and Fp8RowScale; of what is not finite, NaN.
struct Int8Row {
  __device__ static float of(float amax) { return (amax < kInt8Eps ? kInt8Eps : amax) / kInt8Max; }
  __device__ static float code(float v, float amax, float) {
    const float inverse = kInt8Max / (amax < kInt8Eps ? kInt8Eps : amax);
    return fminf(fmaxf(nearbyintf(v * inverse), -kInt8Max), kInt8Max);
  }
};
struct Fp8Row {
  __device__ static float of(float amax) {
    return (amax < kFp8RowEps ? kFp8RowEps : amax) / kFp8Max;
  }
  __device__ static float code(float v, float, float scale) {
    return device::unpack_e4m3(device::pack_e4m3(v / scale, 0)).x;
  }
};

__global__ void __launch_bounds__(kThreads) hidden(const Arguments a) {
  device::wait_for_predecessor();
  const int64_t i = int64_t{blockIdx.y} * kThreads + threadIdx.x, slot = blockIdx.x;
  const int64_t token = slot / a.k;
  const int expert = a.ids[token * a.ids_stride + slot % a.k];
  if (expert < 0) return;
  float h = 0;
  if (i < a.I) {
    const float* x = a.x_values + token * a.C;
    const float gate = a.gate_up.dot(expert, i, x);
    h = gate / (1.0f + __expf(-gate)) * a.gate_up.dot(expert, a.I + i, x);
  }
  if (a.quantise) {
    h = quantised(h, a.ue8m0);
  } else if (!a.wide && !a.gate_up.channels) {
    h = __bfloat162float(__float2bfloat16_rn(h));
  }
  if (i < a.I) a.h[slot * a.I + i] = h;
}

__global__ void __launch_bounds__(kThreads) outputs(const Arguments a) {
  device::wait_for_predecessor();
  const int64_t c = int64_t{blockIdx.y} * kThreads + threadIdx.x, token = blockIdx.x;
  if (c >= a.C) return;
  float sum = 0;
  for (int s = 0; s < a.k; ++s) {
    const int expert = a.ids[token * a.ids_stride + s];
    if (expert < 0) continue;
    const float out = a.down.dot(expert, c, a.h + (token * a.k + s) * a.I);
    sum = fmaf(a.weights[token * a.weights_stride + s], out, sum);
  }
  if (a.addend != nullptr) sum += load(a.addend, token * a.addend_stride + c, a.wide);
  if (a.wide) {
    static_cast<float*>(a.y)[token * a.y_stride + c] = sum;
  } else {
    static_cast<__nv_bfloat16*>(a.y)[token * a.y_stride + c] = __float2bfloat16_rn(sum);
  }
}

Matrix matrix(const QTensor& w, int64_t N) {
  const DType dtype = w.data.dtype;
  const bool tiled = dtype == DType::bf16x64 || dtype == DType::f8e4m3x64 || dtype == DType::i8x64;
  return {
      .data = static_cast<const uint8_t*>(w.data.data),
      .scale = static_cast<const float*>(w.scale.data),
      .rows = w.data.dim(1),
      .N = N,
      .K = w.data.dim(2),
      .type = dtype == DType::f32                               ? Weight::f32
              : dtype == DType::bf16 || dtype == DType::bf16x64 ? Weight::bf16
              : dtype == DType::i8 || dtype == DType::i8x64     ? Weight::i8
                                                                : Weight::e4m3,
      .tiled = tiled,
      .channels = has_channel_scales(w),
  };
}

}  // namespace

bool grouped_moe_takes_cuda_plain(const Exec&, const GroupedMoe& args) {
  const DType dtype = args.gate_up.data.dtype;
  return dtype == args.down.data.dtype &&
         (dtype == DType::i8 || dtype == DType::i8x64 || dtype == DType::f32 ||
          dtype == DType::bf16 || dtype == DType::f8e4m3 || dtype == DType::bf16x64 ||
          dtype == DType::f8e4m3x64);
}

void grouped_moe_cuda_plain(Exec& exec, const GroupedMoe& args) {
  const int64_t T = args.x.dim(0), C = args.x.dim(1), I = args.down.data.dim(2);
  const int64_t k = args.ids.dim(1);
  if (T == 0) return;
  Workspace::Mark mark(*exec.workspace);
  const Arguments a{
      .gate_up = matrix(args.gate_up, 2 * I),
      .down = matrix(args.down, C),
      .x = args.x.data,
      .addend = args.addend.data,
      .y = args.y.data,
      .ids = args.ids.as<int32_t>(),
      .weights = args.weights.as<float>(),
      .x_values = exec.workspace->alloc(DType::f32, {T, C}).as<float>(),
      .h = exec.workspace->alloc(DType::f32, {T * k, I}).as<float>(),
      .x_stride = args.x.stride(0),
      .addend_stride = args.addend.defined() ? args.addend.stride(0) : 0,
      .y_stride = args.y.stride(0),
      .ids_stride = args.ids.stride(0),
      .weights_stride = args.weights.stride(0),
      .C = C,
      .I = I,
      .k = static_cast<int>(k),
      .wide = args.x.dtype == DType::f32,
      .quantise = args.quantise_activations && !has_channel_scales(args.gate_up),
      .ue8m0 = args.ue8m0,
  };
  const auto grid = [](int64_t columns, int64_t rows) {
    return dim3(
        static_cast<unsigned>(rows), static_cast<unsigned>((columns + kThreads - 1) / kThreads)
    );
  };
  const auto round = [&](float* values, int64_t rows, int64_t columns) {
    if (!has_channel_scales(args.gate_up)) return;
    const auto kernel = a.gate_up.type == Weight::i8 ? round_rows<Int8Row> : round_rows<Fp8Row>;
    const dim3 ctas(static_cast<unsigned>(rows));
    cuda::launch(exec, "grouped_moe", {.grid = ctas, .threads = kThreads}, kernel, values, columns);
  };
  cuda::launch(exec, "grouped_moe", {.grid = grid(C, T), .threads = kThreads}, read_x, a);
  round(a.x_values, T, C);
  cuda::launch(exec, "grouped_moe", {.grid = grid(I, T * k), .threads = kThreads}, hidden, a);
  round(a.h, T * k, I);
  cuda::launch(exec, "grouped_moe", {.grid = grid(C, T), .threads = kThreads}, outputs, a);
}

}  // namespace fathom::ops
