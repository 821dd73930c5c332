// Exec: all that a kernel needs besides its arguments. First argument of everything that computes;
// replaces every global and thread-local. One per step thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "fathom/base/threads.h"
#include "fathom/core/device.h"
#include "fathom/core/tensor.h"
#include "fathom/core/workspace.h"

namespace fathom {

// Which rows of the kernel tables may run: rows left out by a switched-off feature, and at most one
// forced row per op.
struct KernelChoice {
  std::vector<std::pair<std::string_view, std::string_view>> forced;  // op, row
  std::vector<std::pair<std::string_view, std::string_view>> masked;  // op, row

  std::string_view forced_row(std::string_view op) const {
    for (const auto& [o, row] : forced) {
      if (o == op) return row;
    }
    return {};
  }
  bool allows(std::string_view op, std::string_view row) const {
    for (const auto& [o, r] : masked) {
      if (o == op && r == row) return false;
    }
    return true;
  }
};

// How often each kernel row ran. A fixed open table keyed by the row's address: counting never
// allocates.
class RowCounters {
 public:
  struct Entry {
    const void* row = nullptr;
    std::string_view op, name;
    int64_t hits = 0;
  };
  void count(const void* row, std::string_view op, std::string_view name) {
    size_t i = reinterpret_cast<uintptr_t>(row) / 16 % kSlots;
    while (entries_[i].row != nullptr && entries_[i].row != row) i = (i + 1) % kSlots;
    entries_[i].row = row;
    entries_[i].op = op;
    entries_[i].name = name;
    ++entries_[i].hits;
  }
  int64_t hits(std::string_view op, std::string_view name) const {
    for (const Entry& e : entries_) {
      if (e.row != nullptr && e.op == op && e.name == name) return e.hits;
    }
    return 0;
  }
  const auto& entries() const { return entries_; }

 private:
  static constexpr size_t kSlots = 1024;  // far more than rows exist
  std::array<Entry, kSlots> entries_{};
};

class StepProfile;

struct Exec {
  Device device = {};
  Workspace* workspace = nullptr;
  ThreadPool* pool = nullptr;             // CPU kernels' threads; null = one
  const KernelChoice* kernels = nullptr;  // null = every row, best first
  RowCounters* counters = nullptr;        // null = not counted
  StepProfile* profile = nullptr;         // null = not measured
  void* stream = nullptr;                 // CUDA stream, opaque above core/cuda
  // CUDA: kSemaphoreWords zeroed device words, in which kernels of this stream count arrivals; each
  // leaves them zero.
  uint32_t* semaphores = nullptr;
  static constexpr int kSemaphoreWords = 1 << 14;
  // Sees every named intermediate when set: goldens, NaN hunt, dumps.
  const std::function<void(std::string_view name, const Tensor&)>* probe = nullptr;

  int threads() const { return pool == nullptr ? 1 : pool->size(); }

  // f(thread, threads) once on every thread.
  template <class F>
  void on_threads(const F& f) const {
    const int used = threads();
    if (used == 1) return f(0, 1);
    pool->run(f);
  }

  // f(range) on each thread's part of [0, n), cut at multiples of `grain`. Which thread does which
  // part never changes a result: kernels reduce within one part only.
  template <class F>
  void parallel_for(int64_t n, int64_t grain, const F& f) const {
    if (n <= 0) return;
    const int used = threads();
    if (used == 1 || n <= grain) return f(Range{0, n});
    pool->run([&f, n, grain](int i, int threads) {
      const Range range = part(n, grain, i, threads);
      if (range.begin < range.end) f(range);
    });
  }
};

inline void probe(const Exec& exec, std::string_view name, const Tensor& t) {
  if (exec.probe != nullptr) [[unlikely]]
    (*exec.probe)(name, t);
}

}  // namespace fathom
