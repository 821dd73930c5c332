// StepWorker: runs steps on a thread of its own, in the order they were launched, so that the
// scheduler thread can plan and commit meanwhile (feature overlap_schedule). A runner whose device
// takes steps ahead is given the next one while the oldest still runs. A ring of batches and
// results is reused (contracts B2).
//
// Thread rule: all methods but the worker's own are called by the scheduler thread.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "fathom/runtime/runner.h"

namespace fathom::engine {

class StepWorker {
 public:
  // At most depth + 1 steps are in flight. `on_completed` is called on the worker thread after
  // each.
  StepWorker(runtime::Runner& runner, int depth, std::function<void()> on_completed);
  ~StepWorker();

  // The batch to plan the next step into; null when depth + 1 steps are in flight.
  plan::Batch* next();
  void launch();  // what next() gave
  int in_flight() const { return static_cast<int>(launched_ - taken_); }

  // The result of the oldest step in flight, null while it is not complete. Rethrows what run()
  // threw. Valid until depth + 1 further steps were launched.
  plan::StepResult* completed();

 private:
  struct Place {
    plan::Batch batch;
    plan::StepResult result;
    std::exception_ptr failure;
  };
  void work();
  template <class F>
  static void guarded(Place& place, const F& half);
  Place& place(int64_t step) { return ring_[static_cast<size_t>(step) % ring_.size()]; }

  runtime::Runner& runner_;
  std::function<void()> on_completed_;
  int depth_;
  std::vector<Place> ring_;
  int64_t launched_ = 0;  // written by the scheduler thread under mutex_
  int64_t taken_ = 0;     // the scheduler thread's
  int64_t done_ = 0;      // written by the worker under mutex_
  bool stop_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace fathom::engine
