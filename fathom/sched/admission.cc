// Entering: admission of waiting sequences by reservation (A2), resuming of swapped ones (V5), and
// who may go first (A3, V6).
#include <algorithm>
#include <cmath>

#include "fathom/base/check.h"
#include "fathom/sched/scheduler.h"

namespace fathom::sched {

namespace {
constexpr int kResumeTokens = 64;  // h of V5
}

bool Scheduler::busy() const {
  const auto active = [](const auto& s) { return s->running() || s->copying; };
  return std::ranges::any_of(live_, active) || std::ranges::any_of(ended_, active);
}

// The policy's order; those that were passed too often come first, by age (A3).
void Scheduler::order_outside() {
  outside_.clear();
  for (const auto& s : live_) {
    if (s->outside() && s->ready) outside_.push_back(s.get());
  }
  const auto exhausted = [this](const Sequence* s) { return s->passed >= options_.passes_max; };
  // Rotating the few exhausted ones to the front keeps age order and needs no memory.
  auto front = outside_.begin();
  for (auto at = front; at != outside_.end(); ++at) {
    if (exhausted(*at)) std::rotate(front++, at, at + 1);
  }
  policy_->order(std::span(front, outside_.end()), tree_);
}

void Scheduler::enter(Pass& pass, Sequence& s) {
  const bool held = !s.admitted && hold_ > 0 && busy();
  const bool swapped = s.state == SeqState::swapped;
  if (held || free_slots_.empty() || !(swapped ? resume(s) : admit(pass, s))) {
    pass.open = false;
    return;
  }
  s.admitted = true;
  count_passed(s);
}

void Scheduler::count_passed(const Sequence& entered) {
  for (Sequence* other : outside_) {
    if (other->outside() && older(*other, entered)) ++other->passed;
  }
}

// A2: for each running sequence and `s`, pages of r * (limit - tokens) more tokens, at least W.
int64_t Scheduler::growth_pages(const Sequence& s, int at_least) const {
  const auto pages = [&](const Sequence& q, int least) {
    const int grown = static_cast<int>(std::ceil(growth_ * (q.limit - q.size())));
    return int64_t{pages_for(std::max(grown, least))};
  };
  const int span = options_.lookahead.span;
  int64_t sum = pages(s, std::max(span, at_least));
  for (const auto& other : live_) {
    const bool grows = other->running() || other->state == SeqState::swap_in;
    if (grows && other.get() != &s) sum += pages(*other, span);
  }
  return sum;
}

// All of `positions` or nothing, with room to grow beside it; the lock is held already (T1), so
// that eviction cannot take what was matched.
bool Scheduler::take_pages(Sequence& s, int positions, int own_growth) {
  const int need = std::max(pages_for(positions) - static_cast<int>(s.table.size()), 0);
  const int64_t room = int64_t{pool_.free()} + tree_.evictable();
  const int64_t growth = busy() ? growth_pages(s, own_growth) : 0;
  if (room < need + growth) return false;
  if (need > pool_.free()) tree_.evict(need - pool_.free(), pool_);
  return pool_.grant(need, s.table);  // what was evicted may still be in limbo
}

void Scheduler::undo_match(Sequence& s) {
  s.lock.release(0);
  s.table.clear();
}

bool Scheduler::admit(Pass& pass, Sequence& s) {
  // The last token must be computed (T1), and every one before a token whose log probability is
  // wanted; pooling every hidden state needs all of them.
  const bool all = s.request->embedding && options_.embedding_needs_all;
  const std::span<const Token> tokens(s.tokens);
  const size_t spared =
      s.scores() ? static_cast<size_t>(s.request->prompt_logprobs_from) : tokens.size();
  s.lock = tree_.match(s.space, tokens.first(all ? 0 : spared - 1), s.table);
  const int matched = s.lock.pages() * options_.page_size;
  s.target = s.size();
  const int resume_tokens = s.admitted ? std::min(kResumeTokens, s.limit - s.size()) : 0;
  if (chunk_size(pass, s, matched) == 0 || !take_pages(s, s.target, resume_tokens)) {
    undo_match(s);
    s.target = 0;
    return false;
  }
  s.kv = s.planned = matched;
  s.state = SeqState::prefill;
  s.slot = free_slots_.back();
  free_slots_.pop_back();
  s.needs_reset = true;
  s.plain_next = false;
  if (!s.admitted) {
    s.cached = matched;
    stats_.cached_tokens += matched;
    stats_.prompt_tokens += s.prompt;
  }
  CHECK(plan_chunk(pass, s), "sequence {} is admitted without a chunk", s.id);
  return true;
}

bool Scheduler::resume(Sequence& s) {
  const std::span<const Token> tokens(s.tokens);
  s.lock = tree_.match(s.space, tokens.first(static_cast<size_t>(s.kv)), s.table);
  const int from = s.lock.pages();
  const int own = std::min(kResumeTokens, s.limit - s.size());
  if (!take_pages(s, s.kv + options_.lookahead.span, own)) {
    undo_match(s);
    return false;
  }
  s.slot = free_slots_.back();
  free_slots_.pop_back();
  s.state = SeqState::swap_in;
  queue_copy(s, false, from);
  return true;
}

}  // namespace fathom::sched
