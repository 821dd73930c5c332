// Committing one step (B4): fences, then each row, then victims.
#include <algorithm>

#include "fathom/base/check.h"
#include "fathom/sched/scheduler.h"

namespace fathom::sched {

using plan::FinishReason;

void Scheduler::commit(plan::StepResult& result) {
  if (result.incarnation < incarnation_) {
    ++stats_.ignored_events;
    return;
  }
  CHECK(result.incarnation == incarnation_, "a result of incarnation {}", result.incarnation);
  CHECK(
      steps_in_flight() > 0 && result.id == last_committed_ + 1,
      "step {} is committed after step {} of {} planned",
      result.id,
      last_committed_,
      last_planned_
  );
  Step& step = steps_[static_cast<size_t>(result.id) % steps_.size()];
  CHECK(
      step.id == result.id && result.rows.size() == step.rows.size(),
      "step {} has {} rows, its result {}",
      step.id,
      step.rows.size(),
      result.rows.size()
  );
  last_committed_ = result.id;
  pool_.committed(result.id);
  hold_ = std::max(hold_ - 1, 0);
  if (!short_of_pages_) growth_ = std::max(growth_ * 0.99, options_.growth_min);  // V6
  short_of_pages_ = false;

  for (const FlightRow& row : step.rows) {
    --row.sequence->in_flight;
    row.sequence->emitting -= row.emits;
    row.sequence->decoding -= !row.chunk;
    decodes_in_flight_ -= !row.chunk;
  }
  for (size_t i = 0; i < step.rows.size(); ++i) commit_row(step.rows[i], result, i);
  for (const auto& s : live_) {
    if (!s->victim) continue;
    CHECK(s->in_flight == 0 || s->last_step > result.id, "victim {} did not act", s->id);  // I10
    if (s->in_flight == 0) preempt_now(*s);
  }
}

void Scheduler::commit_row(const FlightRow& row, plan::StepResult& result, size_t index) {
  Sequence& s = *row.sequence;
  if (!s.live()) {  // B5
    ++stats_.wasted_rows;
    release_if_done(s);
    return;
  }
  const plan::RowResult& done = result.rows[index];
  CHECK(s.running(), "sequence {} commits a row in state {}", s.id, static_cast<int>(s.state));
  CHECK(done.start == s.kv, "sequence {} commits at {}, its KV ends at {}", s.id, done.start, s.kv);
  if (!done.healthy) {  // F1
    return end(s, {.reason = FinishReason::failed, .error = "the model's output is not finite"});
  }
  if (row.chunk) return commit_chunk(s, row, result, index);
  const int most = options_.lookahead.advance_max;
  CHECK(s.size() == s.kv + 1, "sequence {} has {} tokens, KV {}", s.id, s.size(), s.kv);
  CHECK(
      done.accepted >= 1 && done.accepted <= most,
      "sequence {} gains {} tokens",
      s.id,
      done.accepted
  );
  const int64_t before = stats_.generated_tokens;
  append(s, result, done);
  if (row.count > 1) count_drafts(stats_.generated_tokens - before, done);
}

// What was drafted behind the end of a sequence is not judged.
void Scheduler::count_drafts(int64_t emitted, const plan::RowResult& done) {
  stats_.draft_levels += done.drafted;
  stats_.drafts_judged += std::min<int64_t>(emitted, done.drafted);
  if (emitted < done.accepted) {
    stats_.drafts_accepted += emitted;
    return;
  }
  stats_.drafts_accepted += emitted - 1;
  ++stats_.verified_rows;
  stats_.verified_tokens += emitted;
}

void Scheduler::commit_chunk(
    Sequence& s, const FlightRow& row, plan::StepResult& result, size_t index
) {
  s.kv += row.count;
  const std::span<const Token> known(s.tokens);
  tree_.insert(s.lock, known.first(static_cast<size_t>(s.kv)), s.table, s.last_step, pool_);  // T2
  if (!row.emits) return;
  s.state = SeqState::decode;
  set_siblings_ready(s);  // S5
  if (s.request->embedding) {
    CHECK(index < result.embeddings.size(), "row {} has no embedding", index);
    outputs_.embeddings.push_back(std::move(result.embeddings[index]));
    const int at = static_cast<int>(outputs_.embeddings.size()) - 1;
    return end(s, {.reason = FinishReason::stop, .embedding = at});
  }
  const plan::RowResult& done = result.rows[index];
  CHECK(done.accepted == 1, "sequence {} gains {} tokens by its prompt", s.id, done.accepted);
  const bool scores = s.scores();
  s.scored = true;
  append(s, result, done);
  if (!scores) return;
  CHECK(index < result.prompt_logprobs.size(), "row {} has no log probabilities", index);
  outputs_.records.back().prompt_logprobs = static_cast<int32_t>(outputs_.prompt_logprobs.size());
  outputs_.prompt_logprobs.push_back(std::move(result.prompt_logprobs[index]));
}

bool Scheduler::stops(const Sequence& s, Token token, int output_index) const {
  const plan::SamplingParams& sampling = s.request->sampling;
  if (output_index < sampling.min_new_tokens) return false;
  if (std::ranges::find(sampling.stop_ids, token) != sampling.stop_ids.end()) return true;
  const auto& ends = options_.end_tokens;
  return !sampling.ignore_eos && std::ranges::find(ends, token) != ends.end();
}

// Appends the row's tokens up to the first that ends the sequence, emits them, and ends it.
void Scheduler::append(Sequence& s, plan::StepResult& result, const plan::RowResult& done) {
  const auto begin = static_cast<size_t>(done.token_begin);
  CHECK(
      begin + static_cast<size_t>(done.accepted) <= result.tokens.size(),
      "sequence {}: tokens {} + {} of {}",
      s.id,
      begin,
      done.accepted,
      result.tokens.size()
  );
  plan::OutputRecord record{
      .sequence = s.id,
      .choice = s.choice,
      .first = s.output(),
      .token_begin = static_cast<int32_t>(outputs_.tokens.size()),
  };
  const bool logprobs = s.request->sampling.logprobs >= 0;
  if (logprobs) record.logprob_begin = static_cast<int32_t>(outputs_.logprobs.size());
  CHECK(!logprobs || result.logprobs.size() == result.tokens.size(), "log probabilities lack");
  Token stop_token = -1;
  for (size_t i = begin; record.token_count < done.accepted && s.size() < s.limit; ++i) {
    const Token token = result.tokens[i];
    const bool stop = stops(s, token, s.output());
    s.tokens.push_back(token);
    outputs_.tokens.push_back(token);
    if (logprobs) outputs_.logprobs.push_back(std::move(result.logprobs[i]));
    ++record.token_count;
    if (stop) {
      stop_token = token;
      break;
    }
  }
  s.kv = s.size() - 1;  // the last token's KV is written by the row that reads it
  stats_.generated_tokens += record.token_count;
  record.usage = {s.prompt, s.cached, s.output()};
  outputs_.records.push_back(std::move(record));
  if (stop_token >= 0) return end(s, {.reason = FinishReason::stop, .stop_token = stop_token});
  if (s.size() == s.limit) end(s, {.reason = FinishReason::length});
}

}  // namespace fathom::sched
