#include "fathom/core/step_profile.h"

#include "fathom/base/check.h"
#include "fathom/base/clock.h"

namespace fathom {

void StepProfile::start(ThreadPool& pool) {
  pool_ = &pool;
  count_ = 0;
  times_ = {};
  pool.observe(&times_);
}

void StepProfile::stop() {
  if (pool_ != nullptr) pool_->observe(nullptr);
  pool_ = nullptr;
}

StepProfile::Entry& StepProfile::entry(std::string_view op) {
  for (size_t i = 0; i < count_; ++i) {
    if (entries_[i].op == op) return entries_[i];
  }
  CHECK(count_ < kMostOps, "more than {} ops", kMostOps);
  entries_[count_] = {.op = op};
  return entries_[count_++];
}

StepProfile::Call::Call(StepProfile* profile, std::string_view op) : profile_(profile), op_(op) {
  if (profile_ != nullptr && (profile_->pool_ == nullptr || profile_->within_)) profile_ = nullptr;
  if (profile_ == nullptr) [[likely]]
    return;
  profile_->within_ = true;
  before_ = profile_->times_;
  start_ = steady_nanoseconds();
}

StepProfile::Call::~Call() {
  if (profile_ == nullptr) [[likely]]
    return;
  Entry& entry = profile_->entry(op_);
  entry.nanoseconds += steady_nanoseconds() - start_;
  ++entry.calls;
  entry.pool += profile_->times_ - before_;
  profile_->within_ = false;
}

}  // namespace fathom
