#include "fathom/base/threads.h"

#include "fathom/base/thread_name.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fathom {
namespace {

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// CPUs of quota in the cgroup v2 file cpu.max ("max 100000" or "<quota> <period>"), 0 when
// unlimited.
int cgroup_cpus() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
  return static_cast<int>(std::floor(std::strtod(quota.c_str(), nullptr) / period));
}

void pin_to(int nth) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed) && nth-- == 0) {
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      sched_setaffinity(0, sizeof(one), &one);
      return;
    }
  }
}

// A waiting worker spins this long before it sleeps: longer than what lies between two steps, since
// waking a halted CPU of a virtual machine takes 130 us.
constexpr auto kSpin = std::chrono::microseconds(400);

}  // namespace

int usable_cpus() {
  cpu_set_t allowed;
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) cpus = CPU_COUNT(&allowed);
  const int quota = cgroup_cpus();
  if (quota > 0) cpus = std::min(cpus, quota);
  return std::max(cpus, 1);
}

struct ThreadPool::Shared {
  struct alignas(64) Flag {
    std::atomic<uint32_t> epoch{0};
  };
  // One line, so that a worker that sees the epoch has the work with it.
  struct alignas(64) Start {
    std::atomic<uint32_t> epoch{0};  // incremented by the caller: work is ready
    std::atomic<int> sleepers{0};
    Call call = nullptr;
    const void* context = nullptr;
  };
  Start start;
  std::vector<Flag> done;  // by each worker: its part of that epoch is finished
  std::atomic<bool> stop{false};
  std::vector<std::thread> workers;

  explicit Shared(int workers_count) : done(static_cast<size_t>(workers_count)) {}

  // A worker counts itself among the sleepers before it looks at the epoch for the last time, and
  // the caller looks at them after it has changed the epoch: one of the two sees the other.
  uint32_t announce() {
    const uint32_t epoch = start.epoch.fetch_add(1) + 1;
    if (start.sleepers.load() > 0) start.epoch.notify_all();
    return epoch;
  }

  void wait_for_work(uint32_t seen) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    for (int spins = 0; start.epoch.load(std::memory_order_acquire) == seen; ++spins) {
      relax();
      if ((spins & 63) == 63 && std::chrono::steady_clock::now() > until) {
        start.sleepers.fetch_add(1);
        start.epoch.wait(seen);
        start.sleepers.fetch_sub(1);
      }
    }
  }

  void work(int i) {
    for (uint32_t seen = 0; true;) {
      wait_for_work(seen);
      ++seen;
      if (stop.load(std::memory_order_acquire)) return;
      start.call(start.context, i);
      done[static_cast<size_t>(i - 1)].epoch.store(seen, std::memory_order_release);
    }
  }
};

ThreadPool::ThreadPool(int threads, bool pin) : size_(std::max(threads, 1)) {
  shared_ = std::make_unique<Shared>(size_ - 1);
  for (int i = 1; i < size_; ++i) {
    shared_->workers.emplace_back([this, i, pin] {
      name_this_thread("kernel");
      if (pin) pin_to(i);
      shared_->work(i);
    });
  }
}

ThreadPool::~ThreadPool() {
  shared_->stop.store(true, std::memory_order_release);
  shared_->announce();
  for (std::thread& worker : shared_->workers) worker.join();
}

void ThreadPool::run_erased(Call call, const void* context) {
  if (size_ == 1) return call(context, 0);
  shared_->start.call = call;
  shared_->start.context = context;
  const uint32_t epoch = shared_->announce();
  call(context, 0);
  for (Shared::Flag& flag : shared_->done) {
    for (int spins = 0; flag.epoch.load(std::memory_order_acquire) != epoch; ++spins) {
      relax();
      // Never starve a worker that lost its CPU to us.
      if ((spins & 1023) == 1023) std::this_thread::yield();
    }
  }
}

Range part(long n, long grain, int i, int threads) {
  const long grains = (n + grain - 1) / grain;
  const long begin = grains * i / threads * grain;
  const long end = grains * (i + 1) / threads * grain;
  return {std::min(begin, n), std::min(end, n)};
}

SharedRanges::SharedRanges(long n, long grain, int threads)
    : n_(n), grain_(grain), threads_(std::min(threads, kMostThreads)) {
  const long grains = (n + grain - 1) / grain;
  for (int i = 0; i < threads_; ++i) {
    const Range mine = part(grains, 1, i, threads_);
    parts_[i].grains = static_cast<uint64_t>(mine.begin) << 32 | static_cast<uint64_t>(mine.end);
  }
}

bool SharedRanges::take_front(Part& part, Range& grains) {
  const std::atomic_ref<uint64_t> shared(part.grains);
  uint64_t left = shared.load(std::memory_order_relaxed), taken = 0;
  do {
    const uint64_t first = left >> 32, end = left & 0xffffffff;
    if (first >= end) return false;
    taken = (end - first + 1) / 2;
    grains = {static_cast<long>(first), static_cast<long>(first + taken)};
  } while (!shared.compare_exchange_weak(left, left + (taken << 32), std::memory_order_relaxed));
  return true;
}

bool SharedRanges::take_back(Part& part, Range& grains) {
  const std::atomic_ref<uint64_t> shared(part.grains);
  uint64_t left = shared.load(std::memory_order_relaxed);
  do {
    const auto end = static_cast<long>(left & 0xffffffff);
    if (static_cast<long>(left >> 32) >= end) return false;
    grains = {end - 1, end};
  } while (!shared.compare_exchange_weak(left, left - 1, std::memory_order_relaxed));
  return true;
}

bool SharedRanges::take(int thread, Range& range) {
  Range grains{};
  bool found = thread < threads_ && take_front(parts_[thread], grains);
  for (int i = 1; !found && i < threads_; ++i)
    found = take_back(parts_[(thread + i) % threads_], grains);
  if (found) range = {grains.begin * grain_, std::min(n_, grains.end * grain_)};
  return found;
}

}  // namespace fathom
