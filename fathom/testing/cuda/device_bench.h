// What tests and bench need to run kernels on a GPU: an Exec with all it wants, and times of op
// cases by the house's method.
//
// Method: one CUDA graph over the copies of a case, whose weights (and, where weights do not
// dominate, all tensors) lie in distinct memory of several times the L2, each node a programmatic
// dependent of the one before: a kernel that starts early can fetch weights and nothing else. L2 is
// cold and clean (a large buffer was read before), or dirty (it was written) on demand.
// Microseconds a node, median of several replays, by events.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fathom/core/cuda/stream.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {

// An Exec on a CUDA device with its stream, workspace, semaphores and host threads.
class DeviceExec {
 public:
  explicit DeviceExec(Device device);
  Exec& exec() { return exec_; }
  const cuda::Stream& stream() const { return stream_; }
  // Every kernel leaves the semaphores and the mail zero.
  bool semaphores_are_zero() const;

 private:
  MemoryLedger ledger_;
  cuda::Stream stream_;
  std::unique_ptr<Workspace> workspace_;
  Buffer semaphores_;
  ThreadPool pool_;
  Exec exec_;
};

struct Times {
  double median_us = 0, least_us = 0, most_us = 0;  // a node
  int nodes = 0;
};

class DeviceBench {
 public:
  explicit DeviceBench(DeviceExec& device, bool dirty_l2 = false);

  // Replays a graph of what `work` launches, which counts as `nodes`.
  Times time(int nodes, const std::function<void()>& work);
  // A case on one of its rows; `nodes` is 0 when the row does not take it.
  Times time_case(const ErasedCase& c, const std::string& row, Cost& cost);

 private:
  void prepare_l2();
  DeviceExec& device_;
  bool dirty_l2_;
  MemoryLedger ledger_;
  Buffer flush_;
};

// This GPU's own limits, measured.
struct Ceilings {
  double copy_GBps = 0;   // read + written by a kernel, 1 GB each
  double read_GBps = 0;   // a chain of kernels that only read, 117 MB each, issued before the wait
  double fp8_TFLOPS = 0;  // products from shared memory, random data
  double bf16_TFLOPS = 0;
  double empty_node_us = 0;  // a kernel that only waits
};

Ceilings measure_ceilings(DeviceBench& bench, DeviceExec& device);

}  // namespace fathom::testing
