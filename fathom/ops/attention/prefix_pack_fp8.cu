// prefix_pack_fp8, row cuda_vec: a thread per eight values of a position and head; of many
// positions four of them, loaded before the first is converted.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/prefix_pack_fp8_rows.h"
#include "fathom/ops/device/fp8.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kThreads = 256;
constexpr unsigned kValues = 8;  // of a thread at once

// Sizes and strides in `unit`s: eight values, or single ones.
template <class T>
struct Arguments {
  const T *kv, *k_rope;
  uint8_t *keys, *values;
  int64_t kv_stride, rope_stride;  // in elements
  unsigned H, N, R, Dv;            // in units
  int64_t units;                   // of all outputs
  float k_scale_inv, v_scale_inv;
};

// Where one unit comes from and goes to.
template <class T>
struct Place {
  const T* from;
  uint8_t* to;
  float scale;

  __device__ __forceinline__ Place(const Arguments<T>& a, unsigned i, unsigned unit) {
    const unsigned width = a.N + a.R + a.Dv, pair = i / width, d = i - pair * width;
    const unsigned s = pair / a.H, h = pair - s * a.H, D = a.N + a.R;
    const bool rope = d >= a.N && d < D, value = d >= D;
    const unsigned of_head = value ? d - a.R : d;  // unit of kv, which has no rope
    from = rope ? a.k_rope + s * a.rope_stride + (d - a.N) * unit
                : a.kv + s * a.kv_stride + (h * (a.N + a.Dv) + of_head) * unit;
    to = value ? a.values + (int64_t{pair} * a.Dv + d - D) * unit
               : a.keys + (int64_t{pair} * D + d) * unit;
    scale = value ? a.v_scale_inv : a.k_scale_inv;
  }
};

template <class T, int Items>
__global__ void __launch_bounds__(kThreads) pack(const Arguments<T> a) {
  constexpr int kVectors = static_cast<int>(kValues) / Vec<T>::kElements;
  device::launch_successor();
  device::wait_for_predecessor();
  const unsigned first = blockIdx.x * kThreads * Items + threadIdx.x;
  const auto last = static_cast<unsigned>(a.units - 1);
  uint4 raw[Items][kVectors];
  uint8_t* to[Items];
  float scale[Items];
#pragma unroll
  for (int j = 0; j < Items; ++j) {
    const Place<T> place(a, min(first + j * kThreads, last), kValues);
    to[j] = place.to;
    scale[j] = place.scale;
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      raw[j][i] = device::load_constant(place.from + i * Vec<T>::kElements);
  }
#pragma unroll
  for (int j = 0; j < Items; ++j) {
    if (first + j * kThreads > last) return;
    float v[kValues];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) Vec<T>::unpack(raw[j][i], v + i * Vec<T>::kElements);
#pragma unroll
    for (unsigned i = 0; i < kValues; ++i) v[i] *= scale[j];
    *reinterpret_cast<uint2*>(to[j]) = {
        device::pack_e4m3(v[0], v[1], v[2], v[3]), device::pack_e4m3(v[4], v[5], v[6], v[7])};
  }
}

// Any width and alignment.
template <class T>
__global__ void __launch_bounds__(kThreads) pack_any(const Arguments<T> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= a.units) return;
  const Place<T> place(a, i, 1);
  *place.to = static_cast<uint8_t>(device::pack_e4m3(Vec<T>::load(place.from) * place.scale, 0.0f));
}

bool takes_vectors(const PrefixPackFp8& args, int64_t N) {
  const auto aligned = [](const Tensor& t, int64_t to) {
    return reinterpret_cast<uintptr_t>(t.data) % static_cast<size_t>(to) == 0 &&
           t.stride(0) * info(t.dtype).block_bytes % to == 0;
  };
  return N % kValues == 0 && args.k_rope.dim(1) % kValues == 0 &&
         args.values.dim(2) % kValues == 0 && aligned(args.kv, 16) && aligned(args.k_rope, 16) &&
         aligned(args.keys, 8) && aligned(args.values, 8);
}

template <class T>
void run(const Exec& exec, const PrefixPackFp8& args) {
  const int64_t R = args.k_rope.dim(1), N = args.keys.dim(2) - R;
  const bool vectors = takes_vectors(args, N);
  const auto units = [&](int64_t n) { return static_cast<unsigned>(vectors ? n / kValues : n); };
  const Arguments<T> a{
      .kv = static_cast<const T*>(args.kv.data),
      .k_rope = static_cast<const T*>(args.k_rope.data),
      .keys = args.keys.as<uint8_t>(),
      .values = args.values.as<uint8_t>(),
      .kv_stride = args.kv.stride(0),
      .rope_stride = args.k_rope.stride(0),
      .H = static_cast<unsigned>(args.keys.dim(1)),
      .N = units(N),
      .R = units(R),
      .Dv = units(args.values.dim(2)),
      .units = units(args.keys.elements() + args.values.elements()),
      .k_scale_inv = args.k_scale_inv,
      .v_scale_inv = args.v_scale_inv,
  };
  if (a.units == 0) return;
  constexpr int kItems = 4;
  constexpr int64_t kMany = int64_t{132} * 2048 * kItems;  // units: four a thread fill the chip
  const bool many = vectors && a.units >= kMany;
  const int64_t each = many ? kItems * kThreads : kThreads;
  const dim3 grid(static_cast<unsigned>((a.units + each - 1) / each));
  const auto kernel = many ? pack<T, kItems> : vectors ? pack<T, 1> : pack_any<T>;
  cuda::launch(exec, "prefix_pack_fp8", {.grid = grid, .threads = kThreads}, kernel, a);
}

}  // namespace

void prefix_pack_fp8_cuda_vec(Exec& exec, const PrefixPackFp8& args) {
  CHECK(
      args.keys.elements() + args.values.elements() < int64_t{1} << 31,
      "prefix_pack_fp8: fewer than 2^31 values at once"
  );
  args.kv.dtype == DType::bf16 ? run<__nv_bfloat16>(exec, args) : run<float>(exec, args);
}

}  // namespace fathom::ops
