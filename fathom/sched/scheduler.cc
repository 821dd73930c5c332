#include "fathom/sched/scheduler.h"

#include <algorithm>

#include "fathom/base/check.h"
#include "fathom/cache/key_space.h"

namespace fathom::sched {

using plan::FinishReason;

Scheduler::Scheduler(SchedulerOptions options)
    : options_(std::move(options)),
      pool_(options_.pages),
      host_(options_.host_pages + 1),
      tree_(options_.pages, options_.page_size),
      policy_(make_policy(options_.policy)),
      steps_(static_cast<size_t>(options_.depth) + 1),
      growth_(options_.growth_start) {
  const Result<void> valid = validate(options_);
  CHECK(valid.ok(), "{}", valid.error().message);
  const auto running = static_cast<size_t>(options_.max_running);
  for (Step& step : steps_) step.rows.reserve(running);
  for (int slot = options_.max_running - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  const size_t live = running + static_cast<size_t>(options_.max_queued);
  live_.reserve(live);
  outside_.reserve(live);
  ended_.reserve(running);
  spare_.reserve(2 * running);
}

Scheduler::~Scheduler() {
  for (auto* list : {&live_, &ended_}) {
    for (auto& s : *list) s->lock.release(0);
  }
}

int Scheduler::pages_for(int64_t positions) const {
  return static_cast<int>((positions + options_.page_size - 1) / options_.page_size);
}

Sequence* Scheduler::find(int64_t id) const {
  for (const auto* list : {&live_, &ended_}) {
    for (const auto& s : *list) {
      if (s->id == id) return s.get();
    }
  }
  return nullptr;
}

plan::Refusal Scheduler::add(
    const std::shared_ptr<const plan::Request>& request, int64_t first_id
) {
  using plan::RefusalKind;
  if (draining_) return {RefusalKind::draining, "the server is shutting down", 0};
  plan::Refusal refusal = check_request(options_, *request);
  if (refusal.refused()) return refusal;
  const auto queued = std::ranges::count_if(live_, [](const auto& s) { return !s->admitted; });
  if (queued + request->n > options_.max_queued) {
    return {
        RefusalKind::queue_full,
        fmt::format("{} requests are queued, {} at most; retry later", queued, options_.max_queued),
        1};
  }
  ++stats_.requests;
  for (int choice = 0; choice < request->n; ++choice) {
    Sequence& s = make_sequence(request, first_id + choice, choice);
    s.ready = choice == 0;  // S5
    s.arrival = next_arrival_;
  }
  ++next_arrival_;
  return {};
}

Sequence& Scheduler::make_sequence(
    std::shared_ptr<const plan::Request> request, int64_t id, int choice
) {
  if (spare_.empty()) spare_.push_back(std::make_unique<Sequence>());
  std::unique_ptr<Sequence> s = std::move(spare_.back());
  spare_.pop_back();
  s->id = id;
  s->choice = choice;
  s->state = SeqState::waiting;
  s->limit = token_limit(options_, *request);
  s->prompt = static_cast<int>(request->prompt.size());
  s->tokens.reserve(static_cast<size_t>(s->limit));
  s->tokens.assign(request->prompt.begin(), request->prompt.end());
  s->table.reserve(static_cast<size_t>(pages_for(reach_max(options_, s->limit))));
  s->host.reserve(options_.host_pages > 0 ? s->table.capacity() : 0);
  // Ids are never 0 and given once, so they name private spaces.
  s->space =
      !options_.radix_cache
          ? static_cast<uint64_t>(id)
          : cache::key_space(request->cache_salt, options_.salt_key[0], options_.salt_key[1]);
  s->request = std::move(request);
  live_.push_back(std::move(s));  // the youngest
  return *live_.back();
}

void Scheduler::cancel(int64_t id, FinishReason reason, int keep, std::string_view error) {
  Sequence* s = find(id);
  if (s == nullptr || !s->live()) {
    ++stats_.ignored_events;
    return;
  }
  end(*s, {.reason = reason, .keep = keep, .error = error});
}

void Scheduler::cancel_all(FinishReason reason, std::string_view error) {
  while (!live_.empty()) end(*live_.back(), {.reason = reason, .error = error});
}

plan::OutputRecord& Scheduler::record_of(const Sequence& s) {
  auto& records = outputs_.records;
  if (records.empty() || records.back().sequence != s.id) {
    records.push_back({.sequence = s.id, .choice = s.choice, .first = s.output()});
  }
  return records.back();
}

void Scheduler::end(Sequence& s, const Ending& ending) {
  CHECK(s.live(), "sequence {} ends twice", s.id);
  const int keep = ending.keep < 0 ? s.output() : std::min(ending.keep, s.output());
  plan::OutputRecord& record = record_of(s);
  record.finish = ending.reason;
  record.stop_token = ending.stop_token;
  record.embedding = ending.embedding;
  record.error = ending.error;
  record.usage = {s.prompt, s.cached, keep};
  ++(ending.reason == FinishReason::abort    ? stats_.aborted
     : ending.reason == FinishReason::failed ? stats_.failed
                                             : stats_.finished);

  s.state = SeqState::ended;
  s.victim = false;
  release_slot(s);
  if (!s.copying) {
    const bool healthy = ending.reason != FinishReason::failed;
    drop_pages(s, healthy ? std::min(s.kv, s.prompt + keep) : 0);
    drop_host_copy(s);
  }
  set_siblings_ready(s);
  const auto at = std::ranges::find(live_, &s, &std::unique_ptr<Sequence>::get);
  ended_.push_back(std::move(*at));
  live_.erase(at);
  release_if_done(s);
}

// T2, P4. The order matters: what enters the tree is locked until all of it has.
void Scheduler::drop_pages(Sequence& s, int insert_tokens) {
  if (s.table.empty()) return;
  const std::span<const Token> known(s.tokens);
  tree_.insert(
      s.lock, known.first(static_cast<size_t>(insert_tokens)), s.table, s.last_step, pool_
  );
  const auto locked = static_cast<size_t>(s.lock.pages());
  s.lock.release(s.last_step);
  pool_.retire(std::span(s.table).subspan(locked), s.last_step);
  s.table.clear();
}

void Scheduler::drop_host_copy(Sequence& s) {
  host_.retire(s.host, 0);
  s.host.clear();
}

void Scheduler::release_slot(Sequence& s) {
  if (s.slot < 0) return;
  free_slots_.push_back(s.slot);
  s.slot = -1;
}

void Scheduler::release_if_done(Sequence& s) {
  if (s.state != SeqState::ended || s.in_flight > 0 || s.copying) return;
  CHECK(s.table.empty() && s.host.empty() && s.slot < 0, "sequence {} keeps something", s.id);
  const auto at = std::ranges::find(ended_, &s, &std::unique_ptr<Sequence>::get);
  std::unique_ptr<Sequence> object = std::move(*at);
  ended_.erase(at);
  if (spare_.size() == spare_.capacity()) return;
  // What stays is the capacity of its lists.
  Sequence fresh;
  std::swap(fresh.tokens, object->tokens);
  std::swap(fresh.table, object->table);
  std::swap(fresh.host, object->host);
  fresh.tokens.clear();
  *object = std::move(fresh);
  spare_.push_back(std::move(object));
}

void Scheduler::set_siblings_ready(const Sequence& first) {
  if (first.choice != 0 || first.request->n == 1) return;
  for (const auto& s : live_) {
    if (s->arrival == first.arrival) s->ready = true;
  }
}

void Scheduler::take_outputs(plan::Outputs& to) {
  to.clear();
  std::swap(to, outputs_);
}

bool Scheduler::flush() {
  if (!quiet()) return false;
  CHECK(tree_.flush(pool_), "a page of the tree is locked but nobody is live");
  return true;
}

bool Scheduler::quiet() const {
  return live_.empty() && ended_.empty() && steps_in_flight() == 0;
}

void Scheduler::restart(uint64_t incarnation) {
  CHECK(incarnation > incarnation_, "incarnation {} after {}", incarnation, incarnation_);
  incarnation_ = incarnation;
  for (Step& step : steps_) step.rows.clear();
  last_committed_ = last_planned_;
  decodes_in_flight_ = 0;
  decode_steps_owed_ = 0;
  copies_.clear();
  for (auto* list : {&live_, &ended_}) {
    for (auto& s : *list) void_device_state(*s);
  }
  tree_.reset();
  pool_.reset(last_planned_);
  while (!ended_.empty()) release_if_done(*ended_.back());
}

// F3: nothing on the device counts any more. A copy to the host that was not reported is void too;
// a host copy that was being read back is whole.
void Scheduler::void_device_state(Sequence& s) {
  const bool on_host = s.state == SeqState::swapped || s.state == SeqState::swap_in;
  s.lock.release(0);
  s.table.clear();
  release_slot(s);
  s.in_flight = s.emitting = s.decoding = 0;
  s.victim = s.copying = false;
  if (s.live() && on_host) {
    s.state = SeqState::swapped;
    return;
  }
  drop_host_copy(s);
  s.kv = s.planned = s.target = 0;
  if (s.live()) s.state = SeqState::waiting;
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  for (const auto& s : live_) {
    stats.running += s->running() || s->state == SeqState::swap_in;
    stats.waiting += s->state == SeqState::waiting;
    stats.swapped += s->state == SeqState::swapped || s->state == SeqState::swap_out;
  }
  stats.pages_total = pool_.total() - 1;
  stats.pages_free = pool_.free();
  stats.pages_limbo = pool_.in_limbo();
  stats.pages_tree = tree_.pages();
  stats.pages_evictable = tree_.evictable();
  stats.host_pages_used = host_.total() - 1 - host_.free();
  return stats;
}

}  // namespace fathom::sched
