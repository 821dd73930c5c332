// KV pages to copy between the device and the host's pinned pool, for preemption by swap
// (contracts.md P6, V3, V5). A copy engine's stream is not ordered with the step stream.
#pragma once

#include <cstdint>
#include <vector>

#include "fathom/plan/batch.h"

namespace fathom::plan {

struct CopyJob {
  int64_t sequence = 0;
  uint64_t incarnation = 0;
  bool out = false;        // device to host; else host to device
  int32_t page_begin = 0;  // into CopyJobs::device and host
  int32_t page_count = 0;
};

struct CopyJobs {
  std::vector<CopyJob> jobs;
  std::vector<PageId> device;
  std::vector<PageId> host;  // pages of the host pool: 1 .. host_pages

  bool empty() const { return jobs.empty(); }
  void clear() {
    jobs.clear();
    device.clear();
    host.clear();
  }
};

}  // namespace fathom::plan
