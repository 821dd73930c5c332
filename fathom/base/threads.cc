#include "fathom/base/threads.h"

#include "fathom/base/clock.h"
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

using Clock = std::chrono::steady_clock;

}  // namespace

int usable_cpus() {
  cpu_set_t allowed;
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) cpus = CPU_COUNT(&allowed);
  const int quota = cgroup_cpus();
  if (quota > 0) cpus = std::min(cpus, quota);
  return std::max(cpus, 1);
}

PoolTimes& PoolTimes::operator+=(const PoolTimes& other) {
  runs += other.runs;
  own += other.own;
  unfinished += other.unfinished;
  signals += other.signals;
  late += other.late;
  return *this;
}

PoolTimes PoolTimes::operator-(const PoolTimes& other) const {
  return {
      .runs = runs - other.runs,
      .own = own - other.own,
      .unfinished = unfinished - other.unfinished,
      .signals = signals - other.signals,
      .late = late - other.late};
}

struct ThreadPool::Shared {
  // Written by the caller, one line.
  struct alignas(64) Start {
    std::atomic<uint32_t> epoch{0};  // incremented: work is ready
    bool observed = false;           // workers note when they began and ended
    bool stop = false;               // workers return
    Work work;
  };
  // Written by one worker.
  struct alignas(64) Flag {
    std::atomic<uint32_t> done{0};  // its part of that epoch
    std::atomic<bool> asleep{false};
    int64_t began = 0, ended = 0;
  };
  Start start;
  std::vector<Flag> flags;
  std::vector<std::thread> workers;

  explicit Shared(int workers_count) : flags(static_cast<size_t>(workers_count)) {}

  void wait_for_work(uint32_t seen, Flag& flag) {
    const auto until = Clock::now() + kSpin;
    for (int spins = 0; start.epoch.load(std::memory_order_acquire) == seen; ++spins) {
      relax();
      if ((spins & 63) == 63 && Clock::now() > until) {
        flag.asleep.store(true);
        start.epoch.wait(seen);
        flag.asleep.store(false);
      }
    }
  }

  void work(int i, int threads) {
    Flag& flag = flags[static_cast<size_t>(i - 1)];
    for (uint32_t seen = 0; true;) {
      wait_for_work(seen, flag);
      ++seen;
      if (start.stop) return;
      if (start.observed) flag.began = steady_nanoseconds();
      start.work.call(start.work.closure.data(), i, threads);
      if (start.observed) flag.ended = steady_nanoseconds();
      flag.done.store(seen, std::memory_order_release);
    }
  }

  // A plain store, which the caller does not wait for. It may miss that a worker falls asleep just
  // now: then join() wakes it.
  uint32_t announce() {
    const uint32_t epoch = start.epoch.load(std::memory_order_relaxed) + 1;
    start.epoch.store(epoch, std::memory_order_release);
    const bool asleep = std::any_of(flags.begin(), flags.end(), [](const Flag& flag) {
      return flag.asleep.load(std::memory_order_relaxed);
    });
    if (asleep) start.epoch.notify_all();
    return epoch;
  }

  void join(uint32_t epoch) {
    for (Flag& flag : flags) {
      for (int spins = 0; flag.done.load(std::memory_order_acquire) != epoch; ++spins) {
        relax();
        if ((spins & 1023) != 1023) continue;
        if (flag.asleep.load()) start.epoch.notify_all();
        std::this_thread::yield();  // never starve a worker that lost its CPU to us
      }
    }
  }
};

ThreadPool::ThreadPool(int threads, bool pin) : size_(std::max(threads, 1)) {
  shared_ = std::make_unique<Shared>(size_ - 1);
  for (int i = 1; i < size_; ++i) {
    shared_->workers.emplace_back([this, i, pin] {
      name_this_thread("kernel");
      if (pin) pin_to(i);
      shared_->work(i, size_);
    });
  }
}

ThreadPool::~ThreadPool() {
  shared_->start.stop = true;
  shared_->start.epoch.fetch_add(1);
  shared_->start.epoch.notify_all();
  for (std::thread& worker : shared_->workers) worker.join();
}

void ThreadPool::observe(PoolTimes* times) {
  times_ = times;
  shared_->start.observed = times != nullptr;
}

void ThreadPool::run_work(const Work& work) {
  const int64_t start = times_ == nullptr ? 0 : steady_nanoseconds();
  if (size_ > 1) shared_->start.work = work;
  const uint32_t epoch = size_ > 1 ? shared_->announce() : 0;
  work.call(work.closure.data(), 0, size_);
  const int64_t done = times_ == nullptr ? 0 : steady_nanoseconds();
  if (size_ > 1) shared_->join(epoch);
  if (times_ == nullptr) return;
  int64_t began = start, ended = done;
  for (const Shared::Flag& flag : shared_->flags) {
    began = std::max(began, flag.began);
    ended = std::max(ended, flag.ended);
  }
  *times_ +=
      {.runs = 1,
       .own = done - start,
       .unfinished = ended - done,
       .signals = steady_nanoseconds() - ended,
       .late = began - start};
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
