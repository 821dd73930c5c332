#include "fathom/core/buffer.h"

#include <sys/mman.h>

#include <utility>

#if FATHOM_CUDA
#include "fathom/core/cuda/cuda_memory.h"
#endif

namespace fathom {
namespace {

// Anonymous pages: zeroed by the kernel, resident only once touched. Large buffers ask for large
// pages: a product's rows and the cache's pages are more small ones than the first TLB holds.
void* allocate_cpu(int64_t bytes) {
  void* data = ::mmap(
      nullptr,
      static_cast<size_t>(bytes),
      PROT_READ | PROT_WRITE,
      MAP_PRIVATE | MAP_ANONYMOUS,
      -1,
      0
  );
  if (data == MAP_FAILED) return nullptr;
  constexpr int64_t kLarge = int64_t{4} << 20;
  if (bytes >= kLarge) ::madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return data;
}

void* allocate_on(Device device, int64_t bytes) {
  if (device.is_cpu()) return allocate_cpu(bytes);
#if FATHOM_CUDA
  return cuda::allocate(device, bytes);
#else
  return nullptr;
#endif
}

void free_on(Device device, void* data, int64_t bytes) {
  if (device.is_cpu()) {
    ::munmap(data, static_cast<size_t>(bytes));
    return;
  }
#if FATHOM_CUDA
  cuda::free(device, data);
#endif
}

}  // namespace

Result<Buffer> Buffer::allocate(
    MemoryLedger& ledger, Device device, int64_t bytes, Purpose purpose
) {
  CHECK(bytes >= 0, "a buffer of {} bytes", bytes);
  Buffer buffer;
  buffer.device_ = device;
  buffer.purpose_ = purpose;
  if (bytes == 0) return buffer;
  buffer.data_ = allocate_on(device, bytes);
  if (buffer.data_ == nullptr) {
    return error(
        "{}: no {:.1f} MB left for {}; held now: {}",
        device.describe(),
        static_cast<double>(bytes) / 1e6,
        kPurposeNames[static_cast<size_t>(purpose)],
        ledger.describe()
    );
  }
  buffer.bytes_ = bytes;
  buffer.ledger_ = &ledger;
  ledger.add(device, purpose, bytes);
  return buffer;
}

Buffer::Buffer(Buffer&& other) noexcept {
  *this = std::move(other);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  std::swap(purpose_, other.purpose_);
  std::swap(ledger_, other.ledger_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  free_on(device_, data_, bytes_);
  ledger_->add(device_, purpose_, -bytes_);
}

}  // namespace fathom
