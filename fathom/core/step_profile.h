// StepProfile: where a step thread's time goes, op by op, and within an op how much of it the
// thread waited for others. Exec points to one; kernel tables fill it between start() and stop().
// An op that calls others counts as one. One user, the step thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "fathom/base/threads.h"

namespace fathom {

class StepProfile {
 public:
  struct Entry {
    std::string_view op;
    int64_t calls = 0;
    int64_t nanoseconds = 0;
    PoolTimes pool;
  };

  // Forgets what was measured and measures on; `pool` is the one that kernels run on. Between
  // steps.
  void start(ThreadPool& pool);
  void stop();

  // Ops in order of their first call.
  const Entry* begin() const { return entries_.data(); }
  const Entry* end() const { return entries_.data() + count_; }

  // One call of an op, from construction to destruction.
  class Call {
   public:
    Call(StepProfile* profile, std::string_view op);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    StepProfile* profile_;  // null: not measuring, or within another call
    std::string_view op_;
    int64_t start_ = 0;
    PoolTimes before_;
  };

 private:
  Entry& entry(std::string_view op);

  static constexpr size_t kMostOps = 64;
  ThreadPool* pool_ = nullptr;  // null: not measuring
  PoolTimes times_;
  bool within_ = false;
  size_t count_ = 0;
  std::array<Entry, kMostOps> entries_;
};

}  // namespace fathom
