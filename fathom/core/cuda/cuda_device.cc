#include "fathom/core/cuda/cuda_device.h"

#include <cuda_runtime_api.h>

#include "fathom/core/cuda/cuda_error.h"

namespace fathom::cuda {
namespace {

constexpr int kCapability = 90;
constexpr int kDriver = 13000;

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, index), "cudaDeviceGetAttribute");
  return value;
}

std::string version(int v) {
  return fmt::format("{}.{}", v / 1000, v % 1000 / 10);
}

}  // namespace

std::string DeviceFacts::describe() const {
  return fmt::format(
      "{}, {} SMs, {} MHz, {:.0f} GB, driver CUDA {}",
      name,
      multiprocessors,
      clock_mhz,
      static_cast<double>(memory_bytes) / 1e9,
      version(driver)
  );
}

Result<DeviceFacts> open_device(int index) {
  DeviceFacts facts;
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (code != cudaErrorNoDevice) {
    if (cudaDriverGetVersion(&facts.driver) != cudaSuccess || facts.driver == 0)
      return error(
          "cuda: no NVIDIA driver is installed; install one for CUDA 13 or use --device cpu"
      );
    if (facts.driver < kDriver) {
      return error(
          "cuda: the driver is for CUDA {}, {} or newer is needed",
          version(facts.driver),
          version(kDriver)
      );
    }
  }
  if (code == cudaErrorNoDevice || (code == cudaSuccess && count == 0))
    return error("cuda: the driver sees no GPU; use --device cpu");
  if (code != cudaSuccess) return error("cuda: {}", cudaGetErrorString(code));
  if (index >= count)
    return error("cuda:{}: this machine has {} GPU{}", index, count, count == 1 ? "" : "s");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  facts.name = properties.name;
  facts.capability = properties.major * 10 + properties.minor;
  if (facts.capability != kCapability) {
    return error(
        "cuda:{}: {} has compute capability {}.{}; the kernels are built for 9.0 (H100, H200)",
        index,
        facts.name,
        properties.major,
        properties.minor
    );
  }
  facts.multiprocessors = properties.multiProcessorCount;
  facts.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  facts.l2_bytes = properties.l2CacheSize;
  facts.clock_mhz = attribute(cudaDevAttrClockRate, index) / 1000;
  check(cudaSetDevice(index), "cudaSetDevice");
  return facts;
}

int multiprocessors(int index) {
  return attribute(cudaDevAttrMultiProcessorCount, index);
}

}  // namespace fathom::cuda
