// The invariants of contracts.md section 11 that the scheduler can see.
#include "fathom/base/check.h"
#include "fathom/sched/scheduler.h"

namespace fathom::sched {

void Scheduler::check() const {
  pool_.check();
  host_.check();
  tree_.check();
  std::vector<int> owners(static_cast<size_t>(pool_.total()));
  std::vector<int> locks(owners.size());
  int slots = 0, host = 0;
  for (const auto* list : {&live_, &ended_}) {
    for (const auto& s : *list) {
      check_sequence(*s);
      for (size_t i = 0; i < s->table.size(); ++i) {
        const bool locked = static_cast<int>(i) < s->lock.pages();
        ++(locked ? locks : owners)[static_cast<size_t>(s->table[i])];
      }
      slots += s->slot >= 0;
      host += static_cast<int>(s->host.size());
    }
  }
  for (PageId page = 1; page < pool_.total(); ++page) {  // I1, I7
    const auto i = static_cast<size_t>(page);
    const bool inside = tree_.contains(page);
    CHECK(
        locks[i] == (inside ? tree_.locks(page) : 0),
        "page {} is in {} locked prefixes",
        page,
        locks[i]
    );
    const int held = owners[i] + inside;
    CHECK(held == pool_.is_granted(page), "page {} has {} owners", page, held);
  }
  CHECK(
      slots + static_cast<int>(free_slots_.size()) == options_.max_running,
      "{} slots are held, {} free",
      slots,
      free_slots_.size()
  );
  CHECK(host + host_.free() == host_.total() - 1, "{} host pages are held", host);
}

void Scheduler::check_sequence(const Sequence& s) const {
  const bool on_device = s.running() || s.state == SeqState::swap_in;
  CHECK(on_device == (s.slot >= 0), "sequence {} and slot {}", s.id, s.slot);
  CHECK(s.live() || s.copying || s.table.empty(), "ended sequence {} keeps pages", s.id);
  CHECK(s.live() || s.in_flight > 0 || s.copying, "ended sequence {} is not released", s.id);
  CHECK(!s.outside() || (s.table.empty() && s.in_flight == 0), "sequence {} is outside", s.id);
  CHECK(s.size() <= s.limit && s.kv <= s.size(), "sequence {} has {} tokens", s.id, s.size());
  CHECK(!s.victim || s.in_flight > 0, "victim {} waits for nothing", s.id);  // I10
  if (s.state == SeqState::decode) CHECK(s.size() == s.kv + 1, "sequence {} KV {}", s.id, s.kv);
  const auto most = static_cast<size_t>(pages_for(reach_max(options_, s.limit)));
  CHECK(s.table.size() <= most, "sequence {} holds {} pages", s.id, s.table.size());  // I12
}

}  // namespace fathom::sched
