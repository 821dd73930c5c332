#include "fathom/core/cuda/cuda_memory.h"

#include <cuda_runtime_api.h>

#include <cstring>

#include "fathom/core/cuda/cuda_error.h"

namespace fathom::cuda {
namespace {

// Legacy-stream work from pageable memory, and within the device, may still be under way when its
// call returns, and a stream that does not block does not wait for it.
void finish(const char* what) {
  check(cudaStreamSynchronize(cudaStreamLegacy), what);
}

}  // namespace

void* allocate(Device device, int64_t bytes) {
  check(cudaSetDevice(device.index), "cudaSetDevice");
  void* data = nullptr;
  if (cudaMalloc(&data, static_cast<size_t>(bytes)) == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // running out of room is the caller's to report, not sticky
    return nullptr;
  }
  check(cudaPeekAtLastError(), "cudaMalloc");
  check(cudaMemset(data, 0, static_cast<size_t>(bytes)), "cudaMemset");
  finish("cudaMemset");
  return data;
}

void free(Device device, void* data) {
  // A failure here is an earlier kernel's, which the next call reports; a destructor must not
  // throw.
  cudaSetDevice(device.index);
  cudaFree(data);
}

void* allocate_pinned(int64_t bytes) {
  void* data = nullptr;
  if (cudaMallocHost(&data, static_cast<size_t>(bytes)) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  std::memset(data, 0, static_cast<size_t>(bytes));
  return data;
}

void free_pinned(void* data) {
  cudaFreeHost(data);
}

void copy_to_device(void* device, const void* host, int64_t bytes) {
  constexpr const char* kWhat = "copy to the device";
  check(cudaMemcpy(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice), kWhat);
  finish(kWhat);
}

void copy_to_host(void* host, const void* device, int64_t bytes) {
  check(
      cudaMemcpy(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost),
      "copy to the host"
  );
}

void copy_on_device(void* to, const void* from, int64_t bytes) {
  constexpr const char* kWhat = "copy on the device";
  check(cudaMemcpy(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice), kWhat);
  finish(kWhat);
}

int64_t free_bytes(Device device) {
  check(cudaSetDevice(device.index), "cudaSetDevice");
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return static_cast<int64_t>(free);
}

void synchronize(Device device) {
  check(cudaSetDevice(device.index), "cudaSetDevice");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

}  // namespace fathom::cuda
