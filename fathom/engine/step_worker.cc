#include "fathom/engine/step_worker.h"

#include <chrono>

#include "fathom/base/thread_name.h"

namespace fathom::engine {
namespace {

// A device is asked this often whether it has done a step: rarely enough to leave the core to
// others, often enough for the answer's way to the client.
constexpr std::chrono::microseconds kGlance{20};

}  // namespace

StepWorker::StepWorker(runtime::Runner& runner, int depth, std::function<void()> on_completed)
    : runner_(runner),
      on_completed_(std::move(on_completed)),
      depth_(depth),
      ring_(static_cast<size_t>(depth) + 2),
      thread_([this] { work(); }) {}

StepWorker::~StepWorker() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

plan::Batch* StepWorker::next() {
  return in_flight() > depth_ ? nullptr : &place(launched_).batch;
}

void StepWorker::launch() {
  {
    const std::lock_guard lock(mutex_);
    ++launched_;
  }
  wake_.notify_one();
}

plan::StepResult* StepWorker::completed() {
  {
    const std::lock_guard lock(mutex_);
    if (taken_ == done_) return nullptr;
  }
  Place& oldest = place(taken_++);
  if (oldest.failure) std::rethrow_exception(std::exchange(oldest.failure, nullptr));
  return &oldest.result;
}

template <class F>
void StepWorker::guarded(Place& place, const F& half) {
  if (place.failure) return;
  try {
    half();
  } catch (...) {
    place.failure = std::current_exception();
  }
}

void StepWorker::work() {
  name_this_thread("step");
  int64_t started = 0;
  std::unique_lock lock(mutex_);
  const auto may_start = [&] { return launched_ > started && started - done_ <= runner_.ahead(); };
  for (;;) {
    wake_.wait(lock, [&] { return stop_ || may_start() || started > done_; });
    if (stop_) return;
    if (may_start()) {
      Place& next = place(started++);
      lock.unlock();
      guarded(next, [&] { runner_.start(next.batch); });
      lock.lock();
      continue;
    }
    Place& oldest = place(done_);
    bool ready = true;
    guarded(oldest, [&] { ready = runner_.ready(); });
    if (!ready) {
      wake_.wait_for(lock, kGlance, [&] { return stop_ || may_start(); });
      continue;
    }
    lock.unlock();
    guarded(oldest, [&] { runner_.finish(oldest.result); });
    lock.lock();
    ++done_;
    lock.unlock();
    on_completed_();
    lock.lock();
  }
}

}  // namespace fathom::engine
