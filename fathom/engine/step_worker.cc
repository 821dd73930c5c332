#include "fathom/engine/step_worker.h"

namespace fathom::engine {

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

void StepWorker::work() {
  for (int64_t step = 0;; ++step) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || launched_ > step; });
      if (stop_) return;
    }
    Place& current = place(step);
    try {
      runner_.run(current.batch, current.result);
    } catch (...) {
      current.failure = std::current_exception();
    }
    {
      const std::lock_guard lock(mutex_);
      ++done_;
    }
    on_completed_();
  }
}

}  // namespace fathom::engine
