#include "fathom/testing/cuda/device_bench.h"

#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/cuda_memory.h"
#include "fathom/core/device_words.h"
#include "fathom/testing/cuda/probe_kernels.h"

namespace fathom::testing {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{1} << 30;
constexpr int64_t kFlushBytes = int64_t{256} << 20;  // several times the L2
constexpr int64_t kColdBytes = int64_t{400} << 20;   // of distinct buffers in one graph
constexpr int kReplays = 9;
constexpr int kMaxCopies = 48;

Buffer device_buffer(MemoryLedger& ledger, Device device, int64_t bytes) {
  Result<Buffer> memory = Buffer::allocate(ledger, device, bytes, Purpose::workspace);
  CHECK(memory.ok(), "{}", memory.error().message);
  return std::move(*memory);
}

}  // namespace

DeviceExec::DeviceExec(Device device)
    : stream_(device),
      workspace_(std::make_unique<Workspace>(device_buffer(ledger_, device, kWorkspaceBytes))),
      semaphores_(device_buffer(ledger_, device, kDeviceWordBytes)),
      pool_(2) {
  exec_.device = device;
  exec_.workspace = workspace_.get();
  exec_.pool = &pool_;
  exec_.stream = stream_.handle();
  exec_.semaphores = static_cast<uint32_t*>(semaphores_.data());
}

bool DeviceExec::semaphores_are_zero() const {
  std::vector<uint32_t> words(kDeviceWords);
  cuda::synchronize(exec_.device);
  cuda::copy_to_host(words.data(), semaphores_.data(), semaphores_.bytes());
  return std::all_of(words.begin(), words.end(), [](uint32_t w) { return w == 0; });
}

DeviceBench::DeviceBench(DeviceExec& device, bool dirty_l2)
    : device_(device),
      dirty_l2_(dirty_l2),
      flush_(device_buffer(ledger_, device.exec().device, kFlushBytes)) {}

void DeviceBench::prepare_l2() {
  if (dirty_l2_) {
    probe_write(device_.exec(), flush_.data(), flush_.bytes());
  } else {
    probe_read(device_.exec(), flush_.data(), flush_.bytes());
  }
}

Times DeviceBench::time(int nodes, const std::function<void()>& work) {
  const cuda::Graph graph = cuda::Graph::capture(device_.stream(), work);
  cuda::Event start, end;
  std::vector<double> times;
  for (int i = 0; i < kReplays + 2; ++i) {
    prepare_l2();
    start.record(device_.stream());
    graph.launch(device_.stream());
    end.record(device_.stream());
    end.wait();
    if (i >= 2) times.push_back(end.microseconds_since(start) / nodes);
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back(), nodes};
}

Times DeviceBench::time_case(const ErasedCase& c, const std::string& row, Cost& cost) {
  Exec& exec = device_.exec();
  const std::vector<BenchRun> runs = c.prepare(row, exec, [](const Cost& price) {
    const auto bytes = std::max<int64_t>(static_cast<int64_t>(price.bytes), 1);
    return static_cast<int>(std::clamp<int64_t>(kColdBytes / bytes, 3, kMaxCopies));
  });
  if (runs.empty()) return {};
  cost = runs[0].cost;
  const int copies = static_cast<int>(runs.size());
  // Every fourth replay of a large buffer is as cold as the first: nodes go round the copies.
  const int nodes = std::max(copies, 24);
  return time(nodes, [&] {
    for (int i = 0; i < nodes; ++i) {
      Workspace::Mark mark(*exec.workspace);
      runs[static_cast<size_t>(i % copies)].run(exec);
    }
  });
}

Ceilings measure_ceilings(DeviceBench& bench, DeviceExec& device) {
  constexpr int64_t kGigabyte = int64_t{1} << 30;
  constexpr int64_t kReadBytes = 117'440'512;
  constexpr int kNodes = 16;
  Exec& exec = device.exec();
  MemoryLedger ledger;
  const Buffer memory = device_buffer(ledger, exec.device, 2 * kGigabyte);
  auto* data = static_cast<uint8_t*>(memory.data());
  Ceilings ceilings;
  const auto products = [&](bool fp8) {
    double flops = 0;
    const Times t = bench.time(4, [&] {
      for (int i = 0; i < 4; ++i) flops = probe_products(exec, fp8);
    });
    return flops / t.median_us * 1e-6;
  };
  ceilings.bf16_TFLOPS = products(false);  // also warms the clocks
  ceilings.fp8_TFLOPS = products(true);
  const Times copy = bench.time(4, [&] {
    for (int i = 0; i < 4; ++i) probe_copy(exec, data + kGigabyte, data, kGigabyte);
  });
  ceilings.copy_GBps = 2.0 * static_cast<double>(kGigabyte) / copy.median_us * 1e-3;
  const Times read = bench.time(kNodes, [&] {
    for (int i = 0; i < kNodes; ++i) probe_read(exec, data + i * kReadBytes, kReadBytes);
  });
  ceilings.read_GBps = static_cast<double>(kReadBytes) / read.median_us * 1e-3;
  const Times empty = bench.time(200, [&] {
    for (int i = 0; i < 200; ++i) probe_read(exec, data, 0);
  });
  ceilings.empty_node_us = empty.median_us;
  return ceilings;
}

}  // namespace fathom::testing
