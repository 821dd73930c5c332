// How many CPUs this process may really use, and the pool that runs a kernel's parts on them.
//
// ThreadPool: fork and join for kernels. run(f) calls f(i, size()) once for each i in [0, size()),
// f(0, size()) on the caller, and returns when all are done; no allocation, no lock on the fast
// path. Workers spin for a while after a run, then sleep. One caller at a time (the step thread). f
// must not throw and must not call run().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

namespace fathom {

// CPUs allowed by affinity and by the cgroup's quota, at least 1.
int usable_cpus();

// What run()'s caller spent its time on, in nanoseconds, over `runs` of them.
struct PoolTimes {
  int64_t runs = 0;
  int64_t own = 0;         // at its own part
  int64_t unfinished = 0;  // its part done, another thread still at its own
  int64_t signals = 0;     // all parts done: until it knew
  int64_t late = 0;        // of its own part's time: until the last thread had begun

  PoolTimes& operator+=(const PoolTimes& other);
  PoolTimes operator-(const PoolTimes& other) const;
};

class ThreadPool {
 public:
  explicit ThreadPool(int threads, bool pin = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  template <class F>
  void run(const F& f) {
    if constexpr (sizeof(F) <= kWorkBytes && std::is_trivially_copyable_v<F>) {
      Work work{[](const void* closure, int i, int n) { (*static_cast<const F*>(closure))(i, n); }};
      std::memcpy(work.closure.data(), &f, sizeof(F));
      run_work(work);
    } else {
      run([at = &f](int i, int n) { (*at)(i, n); });
    }
  }

  // Adds what each run costs to `times` from now on; null: no longer. Costs some clock readings.
  void observe(PoolTimes* times);

 private:
  // A copy of the closure, so that a worker that sees that there is work has it with the same line.
  static constexpr size_t kWorkBytes = 40;
  struct Work {
    void (*call)(const void* closure, int i, int n) = nullptr;
    alignas(8) std::array<std::byte, kWorkBytes> closure{};
  };
  void run_work(const Work& work);

  struct Shared;
  int size_ = 1;
  PoolTimes* times_ = nullptr;
  std::unique_ptr<Shared> shared_;
};

// The part of [0, n) that thread i of `threads` works on, cut at multiples of `grain`; the same for
// every run.
struct Range {
  long begin, end;
};
Range part(long n, long grain, int i, int threads);

// [0, n) dealt out to threads in grains while they work: each takes its part() from the front on,
// half of what is left of it at a time, since a claim costs as much as a missed line; who is done
// takes grains from the back of another's. For work that splits evenly on paper but not in time
// (memory, stolen cores); a result must not depend on who computes it.
class SharedRanges {
 public:
  static constexpr int kMostThreads = 256;

  SharedRanges(long n, long grain, int threads);
  // The next range of `thread`, false when nothing is left anywhere. Any thread, at any time.
  bool take(int thread, Range& range);

 private:
  // Read and written as an atomic; no initialiser, since only `threads_` of them are ever used.
  struct alignas(64) Part {
    uint64_t grains;  // first << 32 | end
  };
  static bool take_front(Part& part, Range& grains);
  static bool take_back(Part& part, Range& grains);

  long n_, grain_;
  int threads_;
  Part parts_[kMostThreads];
};

}  // namespace fathom
