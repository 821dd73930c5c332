#include "fathom/core/device_queue.h"

#include <array>
#include <cstring>
#include <fstream>

#include "fathom/base/check.h"
#include "fathom/base/threads.h"

#if FATHOM_CUDA
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/cuda_memory.h"
#include "fathom/core/cuda/stream.h"
#endif

namespace fathom {
namespace {

class CpuQueue final : public DeviceQueue {
 public:
  void* stream() const override { return nullptr; }
  void upload(void* device, const void* host, int64_t bytes) override {
    if (device != host) std::memcpy(device, host, static_cast<size_t>(bytes));
  }
  void download(void* host, const void* device, int64_t bytes) override {
    upload(host, device, bytes);
  }
  void clear(void* device, int64_t bytes) override {
    std::memset(device, 0, static_cast<size_t>(bytes));
  }
  void mark(int) override {}
  bool reached(int) const override { return true; }
  void wait(int) const override {}
  void wait_all() const override {}
  bool has_graphs() const override { return false; }
  std::unique_ptr<DeviceGraph> capture(const std::function<void()>&) override {
    CHECK(false, "the CPU has no graphs");
    __builtin_unreachable();
  }
  void replay(const DeviceGraph&) override { CHECK(false, "the CPU has no graphs"); }
};

int64_t free_host_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string name, unit; file >> name;) {
    int64_t kilobytes = 0;
    if (name == "MemAvailable:" && file >> kilobytes) return kilobytes * 1024;
    std::getline(file, unit);
  }
  return int64_t{1} << 30;
}

}  // namespace

#if FATHOM_CUDA

namespace {

class CudaGraph final : public DeviceGraph {
 public:
  explicit CudaGraph(cuda::Graph graph) : graph_(std::move(graph)) {}
  int64_t nodes() const override { return graph_.nodes(); }
  const cuda::Graph& graph() const { return graph_; }

 private:
  cuda::Graph graph_;
};

class CudaQueue final : public DeviceQueue {
 public:
  explicit CudaQueue(Device device) : stream_(device) {}
  void* stream() const override { return stream_.handle(); }
  void upload(void* device, const void* host, int64_t bytes) override {
    if (bytes > 0) stream_.copy_to_device(device, host, bytes);
  }
  void download(void* host, const void* device, int64_t bytes) override {
    if (bytes > 0) stream_.copy_to_host(host, device, bytes);
  }
  void clear(void* device, int64_t bytes) override { stream_.clear(device, bytes); }
  void mark(int which) override { marks_.at(static_cast<size_t>(which)).record(stream_); }
  bool reached(int which) const override { return marks_.at(static_cast<size_t>(which)).reached(); }
  void wait(int which) const override { marks_.at(static_cast<size_t>(which)).wait(); }
  void wait_all() const override { stream_.wait(); }
  bool has_graphs() const override { return true; }
  std::unique_ptr<DeviceGraph> capture(const std::function<void()>& work) override {
    return std::make_unique<CudaGraph>(cuda::Graph::capture(stream_, work));
  }
  void replay(const DeviceGraph& graph) override {
    static_cast<const CudaGraph&>(graph).graph().launch(stream_);
  }

 private:
  cuda::Stream stream_;
  std::array<cuda::Event, 2> marks_;
};

}  // namespace

std::unique_ptr<DeviceQueue> DeviceQueue::open(Device device) {
  if (device.is_cuda()) return std::make_unique<CudaQueue>(device);
  return std::make_unique<CpuQueue>();
}

Result<HostBlock> HostBlock::allocate(MemoryLedger& ledger, Device device, int64_t bytes) {
  HostBlock block;
  if (device.is_cuda()) {
    auto pinned = std::make_shared<cuda::PinnedBuffer>(bytes);
    block.data_ = pinned->data();
    block.pinned_ = std::shared_ptr<void>(pinned, pinned->data());
    return block;
  }
  Result<Buffer> memory = Buffer::allocate(ledger, Device::cpu(), bytes, Purpose::staging);
  if (!memory) return memory.error();
  block.memory_ = std::move(*memory);
  block.data_ = block.memory_.data();
  return block;
}

Result<std::string> describe_device(Device device) {
  if (device.is_cpu()) return fmt::format("cpu: {} usable threads", usable_cpus());
  const Result<cuda::DeviceFacts> facts = cuda::open_device(device.index);
  if (!facts) return facts.error();
  return facts->describe();
}

int64_t free_device_bytes(Device device) {
  return device.is_cuda() ? cuda::free_bytes(device) : free_host_bytes();
}

#else

std::unique_ptr<DeviceQueue> DeviceQueue::open(Device device) {
  CHECK(device.is_cpu(), "{} in a build without CUDA", device.describe());
  return std::make_unique<CpuQueue>();
}

Result<HostBlock> HostBlock::allocate(MemoryLedger& ledger, Device, int64_t bytes) {
  Result<Buffer> memory = Buffer::allocate(ledger, Device::cpu(), bytes, Purpose::staging);
  if (!memory) return memory.error();
  HostBlock block;
  block.memory_ = std::move(*memory);
  block.data_ = block.memory_.data();
  return block;
}

Result<std::string> describe_device(Device device) {
  if (device.is_cpu()) return fmt::format("cpu: {} usable threads", usable_cpus());
  return error("cuda: this program was built without CUDA (preset cuda-release has it)");
}

int64_t free_device_bytes(Device) {
  return free_host_bytes();
}

#endif

}  // namespace fathom
