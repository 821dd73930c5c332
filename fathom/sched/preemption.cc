// Preemption (section 9): who gives way when an older sequence lacks pages, and the copies of
// swapped ones (P6).
#include <algorithm>

#include "fathom/base/check.h"
#include "fathom/sched/scheduler.h"

namespace fathom::sched {

// After eviction did not help. True when pages have become available at once: try again.
bool Scheduler::make_room(const Sequence& needs) {
  bool given = false;
  for (const auto& s : live_) given |= older(needs, *s) && give_back(*s);
  if (given && pool_.free() > 0) return true;
  if (pages_pending()) return false;  // V4
  for (auto at = live_.rbegin(); at != live_.rend() && older(needs, **at); ++at) {
    Sequence& s = **at;
    const bool has_row = s.last_step > last_planned_;  // in the Batch being planned
    if (!s.running() || has_row || yield(s) == 0) continue;
    mark(s);
    return s.state == SeqState::waiting;
  }
  return false;
}

// V4: pages that will come without another victim.
bool Scheduler::pages_pending() const {
  const auto leaving = [](const auto& s) {
    return s->victim || (s->copying && s->state != SeqState::swap_in);
  };
  return pool_.in_limbo() > 0 || std::ranges::any_of(live_, leaving) ||
         std::ranges::any_of(ended_, leaving);
}

// R4: own pages that neither a step in flight nor committed KV can need.
bool Scheduler::give_back(Sequence& s) {
  if (!s.running()) return false;
  const int64_t reach = int64_t{s.base()} + s.decoding * options_.lookahead.advance_max;
  const auto keep = static_cast<size_t>(std::max(pages_for(reach), s.lock.pages()));
  if (s.table.size() <= keep) return false;
  pool_.retire(std::span(s.table).subspan(keep), s.last_step);
  s.table.resize(keep);
  return true;
}

// V1: pages that come back when it goes.
int Scheduler::yield(const Sequence& s) const {
  return s.own_pages() + tree_.held_alone(s.lock);
}

void Scheduler::mark(Sequence& s) {
  s.victim = true;
  growth_ = std::min(1.0, 2 * growth_);  // V6
  hold_ = 2 * (options_.depth + 1);
  if (s.in_flight == 0) preempt_now(s);  // V2
}

bool Scheduler::preempt(int64_t id) {
  Sequence* s = find(id);
  if (s == nullptr || !s->running() || s->victim) return false;
  mark(*s);
  return true;
}

// V3.
bool Scheduler::swaps(const Sequence& s) const {
  const SwapCost& cost = options_.swap_cost;
  return s.state == SeqState::decode && pages_for(s.kv) <= host_.free() &&
         2 * cost.copy_per_token < cost.prefill_per_token;
}

void Scheduler::preempt_now(Sequence& s) {
  CHECK(s.in_flight == 0, "sequence {} is preempted with {} rows in flight", s.id, s.in_flight);
  s.victim = false;
  ++stats_.preemptions;
  release_slot(s);
  if (swaps(s)) {
    ++stats_.swaps;
    CHECK(host_.grant(pages_for(s.kv), s.host), "the host pool lost pages");
    s.state = SeqState::swap_out;
    queue_copy(s, true, 0);
    return;
  }
  drop_pages(s, s.kv);
  s.kv = s.planned = s.target = 0;
  s.state = SeqState::waiting;
}

void Scheduler::queue_copy(Sequence& s, bool out, int from) {
  const int to = pages_for(s.kv);
  s.copying = true;
  copies_.jobs.push_back(
      {.sequence = s.id,
       .incarnation = incarnation_,
       .out = out,
       .page_begin = static_cast<int32_t>(copies_.device.size()),
       .page_count = to - from}
  );
  copies_.device.insert(copies_.device.end(), s.table.begin() + from, s.table.begin() + to);
  copies_.host.insert(copies_.host.end(), s.host.begin() + from, s.host.begin() + to);
}

void Scheduler::take_copies(plan::CopyJobs& to) {
  to.clear();
  std::swap(to, copies_);
}

void Scheduler::copied(int64_t id, uint64_t incarnation) {
  Sequence* s = find(id);
  if (s == nullptr || incarnation != incarnation_ || !s->copying) {
    ++stats_.ignored_events;
    return;
  }
  s->copying = false;
  if (s->state == SeqState::swap_in) {
    drop_host_copy(*s);
    s->state = SeqState::decode;
    s->planned = s->target = s->kv;
    s->needs_reset = true;
    s->plain_next = true;  // D4
    return;
  }
  drop_pages(*s, 0);
  if (s->state == SeqState::swap_out) {
    s->state = SeqState::swapped;
    return;
  }
  drop_host_copy(*s);
  release_if_done(*s);
}

}  // namespace fathom::sched
