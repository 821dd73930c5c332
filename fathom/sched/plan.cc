// Planning one step (section 8): who gets a row, oldest first, within the budget.
#include <algorithm>

#include "fathom/base/check.h"
#include "fathom/sched/scheduler.h"

namespace fathom::sched {

bool Scheduler::plan(plan::Batch& batch, bool group_has_work) {
  batch.clear();
  if (steps_in_flight() > options_.depth) return false;
  steps_[static_cast<size_t>(last_planned_ + 1) % steps_.size()].rows.clear();
  batch.page_begin.push_back(0);
  if (options_.mixed_step) {
    run_pass(batch, true, true);
  } else {
    // Chunks first, unless decode steps are owed; the other kind when that finds nothing to do.
    if (decode_steps_owed_ == 0) run_pass(batch, true, false);
    if (!batch.rows.empty()) {
      decode_steps_owed_ = options_.decode_steps_between;
    } else {
      run_pass(batch, false, true);
      if (batch.rows.empty() && decode_steps_owed_ > 0)
        run_pass(batch, true, false);
      else if (decode_steps_owed_ > 0)
        --decode_steps_owed_;
    }
  }
  if (batch.rows.empty() && !group_has_work) return false;
  seal(batch);
  return true;
}

// T, or T_mix without what the decode rows take; and what chunks may cost beside them.
void Scheduler::set_budget(Pass& pass) const {
  const StepCost& cost = options_.step_cost;
  const int width = options_.lookahead.width;
  int due = 0;
  int64_t decode_cost = cost.step;
  for (const auto& s : live_) {
    if (!s->decode_due()) continue;
    ++due;
    decode_cost += width * (cost.token + cost.pair * s->kv);
  }
  const bool alone = due == 0 && decodes_in_flight_ == 0;
  pass.left =
      alone ? options_.step_tokens : options_.mixed_step_tokens - (pass.decodes ? due * width : 0);
  const bool limited = due > 0 && cost.token > 0;
  pass.floor = limited ? 1 : pass.left;
  pass.cost = static_cast<int64_t>((options_.mixed_stretch - 1) * static_cast<double>(decode_cost));
}

void Scheduler::run_pass(plan::Batch& batch, bool chunks, bool decodes) {
  Pass pass{.batch = batch, .chunks = chunks, .decodes = decodes};
  set_budget(pass);
  order_outside();
  for (size_t i = 0; i < live_.size(); ++i) {
    Sequence& s = *live_[i];
    if (s.last_step > last_planned_) continue;  // entered in an older one's place
    if (s.decode_due()) {
      plan_decode(pass, s);
    } else if (s.prefill_due()) {
      plan_chunk(pass, s);
    } else if (s.outside() && s.ready && chunks && pass.open && pass.left > 0) {
      // A policy fills the places of the outside ones in its own order.
      if (pass.entered < outside_.size()) enter(pass, *outside_[pass.entered++]);
    }
  }
}

void Scheduler::plan_decode(Pass& pass, Sequence& s) {
  const auto& ahead = options_.lookahead;
  const int64_t reach = int64_t{s.base()} + s.decoding * ahead.advance_max + ahead.span;  // R2
  bool covered = cover(s, reach);
  if (!covered) {
    pass.open = false;  // A3
    short_of_pages_ = true;
    while (!covered && make_room(s)) covered = cover(s, reach);
  }
  stats_.short_rows += !covered;
  if (!covered) return;
  if (!pass.decodes) return;  // its pages are looked after all the same
  const bool from_device = s.in_flight > 0;
  CHECK(from_device || s.size() == s.kv + 1, "sequence {}: token {} is not known", s.id, s.kv);
  add_row(
      pass.batch,
      s,
      {.start = s.base() + s.decoding * ahead.advance_max,
       .count = s.plain_next ? 1 : ahead.width,
       .from_device = from_device,
       .emits = true,
       .plain = s.plain_next}
  );
  s.plain_next = false;
  ++s.decoding;
  ++decodes_in_flight_;
  ++stats_.decode_rows;
}

// Prefill tokens from `planned` on that the budget allows; one in any case, so that prompts move.
int Scheduler::affordable(const Pass& pass, int planned) const {
  if (pass.floor >= pass.left) return pass.left;
  const StepCost& cost = options_.step_cost;
  const int64_t most = pass.cost / (cost.token + cost.pair * planned);
  const int64_t whole =
      pass.cost / (cost.token + cost.pair * (planned + std::min<int64_t>(most, pass.left)));
  return static_cast<int>(std::clamp<int64_t>(whole, pass.floor, pass.left));
}

// Tokens of a chunk that starts at `planned`: it ends on a page border, so that chunk borders lose
// nothing in the tree, unless it is the last or less than a page can be afforded.
int Scheduler::chunk_size(const Pass& pass, const Sequence& s, int planned) const {
  const int rest = s.target - planned, most = affordable(pass, planned);
  if (rest <= most) return rest;
  if (!options_.chunked_prefill) return 0;
  const int whole = std::max(most - (planned + most) % options_.page_size, 0);
  return whole == 0 && most < pass.left ? most : whole;
}

bool Scheduler::plan_chunk(Pass& pass, Sequence& s) {
  const int count = pass.chunks ? chunk_size(pass, s, s.planned) : 0;
  if (count == 0) return false;
  const bool last = s.planned + count == s.target;
  add_row(
      pass.batch,
      s,
      {.start = s.planned,
       .count = count,
       .chunk = true,
       .emits = last,
       .embeds = s.request->embedding,
       .scores = s.scores()}
  );
  const StepCost& cost = options_.step_cost;
  pass.left -= count;
  pass.floor = std::max(pass.floor - count, 0);
  pass.cost = std::max<int64_t>(pass.cost - count * (cost.token + cost.pair * s.planned), 0);
  s.planned += count;
  ++stats_.chunk_rows;
  return true;
}

// R2: the table reaches `positions`, with free pages or evicted ones.
bool Scheduler::cover(Sequence& s, int64_t positions) {
  CHECK(positions <= reach_max(options_, s.limit), "sequence {} reaches {}", s.id, positions);
  const int need = pages_for(positions) - static_cast<int>(s.table.size());
  if (need <= 0) return true;
  if (need > pool_.free()) tree_.evict(need - pool_.free(), pool_);
  return pool_.grant(need, s.table);
}

void Scheduler::add_row(plan::Batch& batch, Sequence& s, const plan::Row& shape) {
  plan::Row row = shape;
  row.sequence = s.id;
  row.slot = s.slot;
  if (s.needs_reset) add_reset(batch, s);
  for (int i = 0; i < row.count; ++i) {
    const bool known = row.chunk || (i == 0 && !row.from_device);
    batch.tokens.push_back(known ? s.tokens[static_cast<size_t>(row.start + i)] : 0);
  }
  batch.pages.insert(batch.pages.end(), s.table.begin(), s.table.end());
  batch.page_begin.push_back(static_cast<int32_t>(batch.pages.size()));
  batch.rows.push_back(row);

  s.last_step = last_planned_ + 1;
  ++s.in_flight;
  s.emitting += row.emits;
  steps_[static_cast<size_t>(s.last_step) % steps_.size()].rows.push_back(
      {&s, row.start, row.count, row.chunk, row.emits}
  );
}

void Scheduler::add_reset(plan::Batch& batch, Sequence& s) {
  s.needs_reset = false;
  plan::SlotReset reset{
      .slot = s.slot,
      .choice = s.choice,
      .prompt = s.prompt,
      .history_begin = static_cast<int32_t>(batch.history.size()),
      .request = s.request,
  };
  if (s.request->sampling.penalised()) {
    reset.history_count = s.size();
    batch.history.insert(batch.history.end(), s.tokens.begin(), s.tokens.end());
  }
  batch.resets.push_back(std::move(reset));
}

// The step counts from now on (B1).
void Scheduler::seal(plan::Batch& batch) {
  const auto rows = [&](bool chunk) {
    return std::ranges::count(batch.rows, chunk, &plan::Row::chunk);
  };
  const auto tokens = static_cast<int>(batch.tokens.size());
  const bool mixed = rows(false) > 0 || decodes_in_flight_ > 0;
  CHECK(
      tokens <= (mixed ? options_.mixed_step_tokens : options_.step_tokens),
      "a step of {} tokens in {} rows",
      tokens,
      batch.rows.size()
  );  // I14
  batch.id = ++last_planned_;
  batch.incarnation = incarnation_;
  steps_[static_cast<size_t>(batch.id) % steps_.size()].id = batch.id;
  ++stats_.steps;
  stats_.mixed_steps += rows(true) > 0 && rows(false) > 0;
}

}  // namespace fathom::sched
