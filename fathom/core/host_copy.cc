#include "fathom/core/host_copy.h"

#if FATHOM_CUDA
#include "fathom/core/cuda/cuda_memory.h"
#include "fathom/core/cuda/stream.h"
#endif

namespace fathom {

int64_t extent_bytes(const Tensor& t) {
  int64_t last = 0;
  for (int d = 0; d < t.rank; ++d) {
    if (t.dim(d) == 0) return 0;
    last += (t.dim(d) - 1) * t.stride(d);
  }
  const DTypeInfo& i = info(t.dtype);
  return (last + i.block_elements) / i.block_elements * i.block_bytes;
}

#if FATHOM_CUDA

namespace {

// Anonymous pages: only what the reference touches becomes resident.
constexpr int64_t kWorkspaceBytes = int64_t{4} << 30;

Buffer host_buffer(MemoryLedger& ledger, int64_t bytes) {
  Result<Buffer> memory = Buffer::allocate(ledger, Device::cpu(), bytes, Purpose::workspace);
  CHECK(memory.ok(), "{}", memory.error().message);
  return std::move(*memory);
}

}  // namespace

HostCopies::HostCopies(const Exec& exec)
    : workspace_(host_buffer(ledger_, kWorkspaceBytes)), host_(exec) {
  CHECK(
      !cuda::capturing(exec.stream),
      "a reference row runs on the host: start without CUDA graphs (--disable-cuda-graph)"
  );
  cuda::synchronize(exec.device);
  host_.device = Device::cpu();
  host_.workspace = &workspace_;
  host_.stream = nullptr;
}

void HostCopies::fetch(Tensor& t, Role role) {
  const int64_t bytes = extent_bytes(t);
  copies_.push_back({t, host_buffer(ledger_, bytes), is_written(role)});
  if (bytes > 0) cuda::copy_to_host(copies_.back().memory.data(), t.data, bytes);
  t.data = copies_.back().memory.data();
  t.device = Device::cpu();
}

void HostCopies::write_back() {
  for (const Copy& copy : copies_) {
    if (!copy.written) continue;
    for_each_extent(copy.device, [&](int64_t from, int64_t bytes) {
      cuda::copy_to_device(
          static_cast<uint8_t*>(copy.device.data) + from,
          static_cast<const uint8_t*>(copy.memory.data()) + from,
          bytes
      );
    });
  }
}

#else

HostCopies::HostCopies(const Exec& exec) : host_(exec) {
  CHECK(false, "{} in a build without CUDA", exec.device.describe());
}
void HostCopies::fetch(Tensor&, Role) {}
void HostCopies::write_back() {}

#endif

}  // namespace fathom
