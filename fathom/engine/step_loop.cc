#include "fathom/engine/step_loop.h"

#include "fathom/base/log.h"
#include "fathom/base/thread_name.h"

#include <algorithm>

namespace fathom::engine {
namespace {

// An idle loop looks around this often; messages and completions wake it at once.
constexpr std::chrono::milliseconds kPatience{1000};

}  // namespace

StepLoop::StepLoop(
    sched::SchedulerOptions options,
    bool overlapped,
    runtime::Runner& runner,
    TextWorker& text,
    Inbox& inbox
)
    : scheduler_(std::move(options)), runner_(runner), text_(text), inbox_(inbox) {
  if (overlapped) worker_.emplace(runner, scheduler_.options().depth, [this] { inbox_.ring(); });
  thread_ = std::thread([this, overlapped] {
    name_this_thread("scheduler");
    guarded(overlapped ? &StepLoop::overlapped : &StepLoop::serial);
  });
}

StepLoop::~StepLoop() {
  inbox_.send({.kind = Message::Kind::stop});
  thread_.join();
}

void StepLoop::serial() {
  while (take_messages(!scheduler_.has_work())) {
    if (scheduler_.plan(batch_)) {
      note_planned(batch_);
      const Clock::time_point launched = Clock::now();
      runner_.run(batch_, result_);
      turn_waited_ += Clock::now() - launched;
      commit(result_);
    }
    hand_over();
  }
}

void StepLoop::overlapped() {
  bool idle = true;
  while (take_messages(idle)) {
    plan::StepResult* result = worker_->completed();
    if (result != nullptr) commit(*result);
    while (plan::Batch* batch = worker_->next()) {
      if (!scheduler_.plan(*batch)) break;
      note_planned(*batch);
      if (worker_->in_flight() > 0) ++now_.overlapped_steps;
      worker_->launch();
    }
    hand_over();
    idle = result == nullptr;
  }
}

// A CheckError in the deciding tower, or any error of a step, ends the incarnation, not the program
// (F2).
void StepLoop::guarded(void (StepLoop::*loop)()) {
  for (;;) {
    try {
      (this->*loop)();
      return;
    } catch (const std::exception& e) {
      recover(e.what());
    }
  }
}

bool StepLoop::take_messages(bool wait) {
  const Clock::time_point start = Clock::now();
  inbox_.take(messages_, wait ? kPatience : std::chrono::milliseconds(0));
  turn_start_ = wait ? Clock::now() : start;
  turn_waited_ = {};
  for (Message& message : messages_) {
    if (message.kind == Message::Kind::stop) return false;
    handle(message);
    message = {};
  }
  return true;
}

void StepLoop::handle(Message& message) {
  switch (message.kind) {
    case Message::Kind::add: {
      const plan::Refusal refusal = scheduler_.add(message.request, message.sequence);
      if (!refusal.refused()) break;
      // The engine checked before; what changed meanwhile ends the request like any other.
      for (int choice = 0; choice < message.request->n; ++choice) {
        outputs_.records.push_back(
            {.sequence = message.sequence + choice,
             .choice = choice,
             .finish = plan::FinishReason::failed,
             .error = refusal.message}
        );
      }
      text_.post(outputs_);
      break;
    }
    case Message::Kind::cancel:
      scheduler_.cancel(message.sequence, message.reason, message.keep);
      break;
    case Message::Kind::cancel_all:
      scheduler_.cancel_all(message.reason, "cancelled");
      break;
    case Message::Kind::flush:
      message.answer(scheduler_.flush());
      break;
    case Message::Kind::drain:
      scheduler_.drain();
      now_.draining = true;
      break;
    case Message::Kind::stop:
      break;
  }
}

void StepLoop::note_planned(const plan::Batch& batch) {
  for (const plan::Row& row : batch.rows) {
    if (row.chunk && !row.emits) ++now_.cut_chunks;
  }
}

void StepLoop::commit(plan::StepResult& result) {
  scheduler_.commit(result);
  const auto spent = Clock::now() - turn_start_ - turn_waited_;
  host_us_[steps_seen_++ % host_us_.size()] =
      std::chrono::duration<float, std::micro>(spent).count();
}

void StepLoop::hand_over() {
  scheduler_.take_outputs(outputs_);
  text_.post(outputs_);
  publish();
}

void StepLoop::publish() {
  now_.scheduler = scheduler_.stats();
  now_.quiet = scheduler_.quiet();
  const Clock::time_point time = Clock::now();
  const double seconds = std::chrono::duration<double>(time - window_start_).count();
  if (seconds >= 1.0) {
    now_.tokens_per_second =
        static_cast<double>(now_.scheduler.generated_tokens - window_tokens_) / seconds;
    window_tokens_ = now_.scheduler.generated_tokens;
    window_start_ = time;
  }
  {
    const std::lock_guard lock(mutex_);
    published_ = now_;
    published_us_ = host_us_;
  }
  if (now_.quiet) quiet_.notify_all();
}

void StepLoop::recover(const std::string& what) {
  log_error("a step failed, its requests end: {}", what);
  ++now_.restarts;
  if (worker_) {
    // Results of the old incarnation are waited for and thrown away (F3).
    while (worker_->in_flight() > 0) {
      try {
        if (worker_->completed() == nullptr) std::this_thread::yield();
      } catch (const std::exception& e) {
        log_error("the step behind it failed as well: {}", e.what());
      }
    }
  }
  scheduler_.restart(++incarnation_);
  scheduler_.cancel_all(plan::FinishReason::failed, what);
  hand_over();
}

LoopStats StepLoop::stats() const {
  LoopStats stats;
  std::array<float, 256> us;
  {
    const std::lock_guard lock(mutex_);
    stats = published_;
    us = published_us_;
  }
  auto* const end = std::remove(us.begin(), us.end(), 0.0f);
  if (end != us.begin()) {
    auto* const middle = us.begin() + (end - us.begin()) / 2;
    std::nth_element(us.begin(), middle, end);
    stats.step_host_us = static_cast<double>(*middle);
  }
  return stats;
}

bool StepLoop::wait_drained(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  return quiet_.wait_for(lock, patience, [this] {
    return published_.draining && published_.quiet;
  });
}

}  // namespace fathom::engine
