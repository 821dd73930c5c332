// HostCopies: a CUDA op's arguments as host tensors, for the plain reference row: bisecting a wrong
// answer on the GPU becomes a flag (--kernel <op>=ref). Slow, and blocks: impossible while a graph
// is captured.
#pragma once

#include <memory>
#include <vector>

#include "fathom/core/exec.h"
#include "fathom/core/role.h"

namespace fathom {

// Bytes from the first to one past the last element of a view.
int64_t extent_bytes(const Tensor& t);

class HostCopies {
 public:
  // Waits for all work given to exec's device. CHECKs that its stream is not being captured.
  explicit HostCopies(const Exec& exec);

  void fetch(Tensor& t, Role role);  // t becomes a host copy
  void write_back();                 // copies what the reference wrote to the device

  // An Exec for the host, with a workspace of its own.
  Exec& host() { return host_; }

 private:
  struct Copy {
    void* device = nullptr;
    Buffer memory;
    bool written = false;
  };
  MemoryLedger ledger_;
  Workspace workspace_;
  Exec host_;
  std::vector<Copy> copies_;
};

}  // namespace fathom
