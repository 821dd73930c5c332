#include "fathom/testing/cuda/probe_kernels.h"

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::testing {
namespace {

constexpr int kPiece = 8192;
constexpr int kStages = 12;

struct ReadStorage {
  uint8_t piece[kStages][kPiece];
  device::Barrier full[kStages];
};

// Pieces stream through a ring; one word of each is looked at, so that none may be left out.
__global__ void __launch_bounds__(128, 2) read_pieces(const uint8_t* data, int pieces, int* sink) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<ReadStorage*>(memory);
  const int grid = static_cast<int>(gridDim.x), first = static_cast<int>(blockIdx.x);
  const auto load = [&](int piece, int stage) {
    s.full[stage].arrive_expect(kPiece);
    device::bulk_load(
        s.piece[stage], data + int64_t{piece} * kPiece, kPiece, s.full[stage], device::kEvictFirst
    );
  };
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) s.full[i].init(1);
    device::fence_barrier_init();
    for (int i = 0; i < kStages && first + i * grid < pieces; ++i) load(first + i * grid, i);
  }
  __syncthreads();
  device::launch_successor();
  device::wait_for_predecessor();
  device::Ring<kStages> ring;
  int seen = 0;
  for (int piece = first; piece < pieces; piece += grid) {
    s.full[ring.stage].wait(ring.full_parity());
    seen += s.piece[ring.stage][threadIdx.x * 64];
    __syncthreads();
    if (threadIdx.x == 0 && piece + kStages * grid < pieces)
      load(piece + kStages * grid, ring.stage);
    ring.advance();
  }
  if (seen == -1) *sink = seen;
}

__global__ void __launch_bounds__(512) write_all(uint4* data, int64_t vectors) {
  device::wait_for_predecessor();
  const int64_t step = int64_t{gridDim.x} * 512;
  for (int64_t i = int64_t{blockIdx.x} * 512 + threadIdx.x; i < vectors; i += step)
    data[i] = make_uint4(static_cast<uint32_t>(i), 1, 2, 3);
}

__global__ void __launch_bounds__(512) copy_all(uint4* to, const uint4* from, int64_t vectors) {
  device::wait_for_predecessor();
  constexpr int kAtOnce = 4;
  const int64_t step = int64_t{gridDim.x} * 512 * kAtOnce;
  for (int64_t i = int64_t{blockIdx.x} * 512 * kAtOnce + threadIdx.x; i < vectors; i += step) {
    uint4 v[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) v[j] = device::load_streaming(from + i + j * 512);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) __stcs(to + i + j * 512, v[j]);
  }
}

constexpr int kProducts = 2048;  // of 64 x 128 x 128 bytes, per warpgroup
constexpr int kWarpgroups = 2;

template <bool Fp8>
__global__ void __launch_bounds__(kWarpgroups * 128, 1) products(float* sink) {
  extern __shared__ __align__(1024) uint8_t memory[];
  device::wait_for_predecessor();
  // Random codes of moderate size: no infinity, no NaN in either format.
  uint32_t state = (blockIdx.x * 256 + threadIdx.x) * 2654435761u + 12345u;
  for (unsigned i = threadIdx.x; i < (kWarpgroups * 8192 + 16384) / 4; i += kWarpgroups * 128) {
    state = state * 1664525u + 1013904223u;
    reinterpret_cast<uint32_t*>(memory)[i] = state & 0xbfbfbfbfu;
  }
  device::fence_shared_for_async();
  __syncthreads();
  const uint64_t b = device::operand_descriptor(memory);
  const uint64_t a = device::operand_descriptor(memory + 16384 + threadIdx.x / 128 * 8192);
  float d[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) d[i] = 0;
  for (int n = 0; n < kProducts / 4; ++n) {
    device::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 16; ++k) {
      const auto step = static_cast<uint64_t>(2 * (k % 4));
      if constexpr (Fp8) {
        device::mma_e4m3(d, a + step, b + step, true);
      } else {
        device::mma_bf16(d, a + step, b + step, true);
      }
    }
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin(d);
  }
  if (d[0] == 12345.678f) sink[threadIdx.x] = d[1];
}

int sms(const Exec& exec) {
  return cuda::multiprocessors(exec.device.index);
}

}  // namespace

void probe_read(const Exec& exec, const void* data, int64_t bytes) {
  cuda::launch(
      exec,
      "probe_read",
      {.grid = dim3(static_cast<unsigned>(sms(exec))),
       .threads = 128,
       .shared_bytes = sizeof(ReadStorage)},
      read_pieces,
      static_cast<const uint8_t*>(data),
      static_cast<int>(bytes / kPiece),
      reinterpret_cast<int*>(exec.semaphores)
  );
}

void probe_write(const Exec& exec, void* data, int64_t bytes) {
  const dim3 grid(static_cast<unsigned>(4 * sms(exec)));
  cuda::launch(
      exec,
      "probe_write",
      {.grid = grid, .threads = 512},
      write_all,
      static_cast<uint4*>(data),
      bytes / 16
  );
}

void probe_copy(const Exec& exec, void* to, const void* from, int64_t bytes) {
  cuda::launch(
      exec,
      "probe_copy",
      {.grid = dim3(static_cast<unsigned>(4 * sms(exec))), .threads = 512},
      copy_all,
      static_cast<uint4*>(to),
      static_cast<const uint4*>(from),
      bytes / 16
  );
}

double probe_products(const Exec& exec, bool fp8) {
  const cuda::LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(sms(exec))),
      .threads = kWarpgroups * 128,
      .shared_bytes = kWarpgroups * 8192 + 16384,
  };
  auto* sink = reinterpret_cast<float*>(exec.semaphores);
  if (fp8) {
    cuda::launch(exec, "probe_products", shape, products<true>, sink);
  } else {
    cuda::launch(exec, "probe_products", shape, products<false>, sink);
  }
  const double depth = fp8 ? 128 : 64;
  return 2.0 * 64 * 128 * depth * kProducts * kWarpgroups * sms(exec);
}

}  // namespace fathom::testing
