// StepLoop: the scheduler thread of one replica. Takes messages, plans, has steps run, commits,
// hands outputs to the text worker (contracts section 1). Two loops, one scheduler: serial, and
// overlapped (feature overlap_schedule).
//
// Thread rule: the public methods may be called from any thread.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "fathom/engine/features.h"
#include "fathom/engine/inbox.h"
#include "fathom/engine/step_worker.h"
#include "fathom/engine/text_worker.h"
#include "fathom/runtime/runner.h"
#include "fathom/sched/scheduler.h"

namespace fathom::engine {

// A snapshot that the loop publishes after each turn.
struct LoopStats {
  sched::SchedulerStats scheduler;
  bool quiet = true;
  bool draining = false;
  int64_t overlapped_steps = 0;  // launched while another was in flight
  int64_t cut_chunks = 0;        // chunks that did not end their prompt
  int64_t restarts = 0;          // incarnations that ended by an error
  double step_host_us = 0;       // median of the last steps: plan, commit and messages
  double tokens_per_second = 0;  // generated, over about the last second
};

class StepLoop {
 public:
  // Runner, text worker and inbox must outlive the loop.
  StepLoop(
      sched::SchedulerOptions options,
      bool overlapped,
      runtime::Runner& runner,
      TextWorker& text,
      Inbox& inbox
  );
  ~StepLoop();  // stops at once; live requests are not told

  LoopStats stats() const;
  // After a drain message: waits until nothing is live or in flight; false when `patience` ran out.
  bool wait_drained(std::chrono::milliseconds patience);

 private:
  using Clock = std::chrono::steady_clock;

  void serial();
  void overlapped();
  void guarded(void (StepLoop::*loop)());
  bool take_messages(bool wait);  // false: stop
  void handle(Message& message);
  void note_planned(const plan::Batch& batch);
  void commit(plan::StepResult& result);
  void hand_over();
  void recover(const std::string& what);
  void publish();

  sched::Scheduler scheduler_;
  runtime::Runner& runner_;
  TextWorker& text_;
  Inbox& inbox_;
  std::optional<StepWorker> worker_;  // overlapped only

  // The scheduler thread's own.
  std::vector<Message> messages_;
  plan::Batch batch_;
  plan::StepResult result_;
  plan::Outputs outputs_;
  uint64_t incarnation_ = 0;
  LoopStats now_;
  std::array<float, 256> host_us_{};
  size_t steps_seen_ = 0;
  Clock::time_point turn_start_{}, window_start_{};
  Clock::duration turn_waited_{};
  int64_t window_tokens_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable quiet_;
  LoopStats published_;                    // guarded by mutex_
  std::array<float, 256> published_us_{};  // guarded by mutex_
  std::thread thread_;
};

}  // namespace fathom::engine
