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

// f(first byte, bytes) of each contiguous run of a view, in order: what a copy may touch where
// views of one buffer lie interleaved.
template <class F>
void for_each_extent(const Tensor& t, const F& f, int64_t from = 0, int depth = 0) {
  int64_t inner = 1;
  bool contiguous = true;
  for (int d = t.rank - 1; d >= depth; --d) {
    contiguous = contiguous && (t.stride(d) == inner || t.dim(d) == 1);
    inner *= t.dim(d);
  }
  if (contiguous || depth == t.rank - 1) {
    if (inner > 0) f(bytes_of(t.dtype, from), bytes_of(t.dtype, inner));
    return;
  }
  for (int64_t i = 0; i < t.dim(depth); ++i)
    for_each_extent(t, f, from + i * t.stride(depth), depth + 1);
}

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
    Tensor device;
    Buffer memory;
    bool written = false;
  };
  MemoryLedger ledger_;
  Workspace workspace_;
  Exec host_;
  std::vector<Copy> copies_;
};

}  // namespace fathom
