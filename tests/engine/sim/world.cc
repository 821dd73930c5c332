#include "tests/engine/sim/world.h"

#include <algorithm>

#include "fathom/base/check.h"

namespace fathom::sim {

using plan::FinishReason;

bool stop_pair(const plan::Request& request, Token a, Token b) {
  return !request.sampling.stop.empty() && (a * kVocabulary + b) % 29 == 0;
}

namespace {

// Output of `tokens` (prompt and endless output): up to the limit, a stop id or a stop pair.
std::vector<Token> cut_output(
    const plan::Request& request, std::span<const Token> tokens, int limit
) {
  std::vector<Token> output;
  const plan::SamplingParams& sampling = request.sampling;
  for (size_t i = request.prompt.size(); i < static_cast<size_t>(limit); ++i) {
    const Token token = tokens[i];
    const int index = static_cast<int>(output.size());
    if (index > 0 && stop_pair(request, output.back(), token)) {
      output.pop_back();
      return output;
    }
    output.push_back(token);
    if (index >= sampling.min_new_tokens && std::ranges::count(sampling.stop_ids, token) > 0) break;
  }
  return output;
}

}  // namespace

World::World(sched::SchedulerOptions options, Rates rates, Shape shape, uint64_t seed)
    : scheduler(std::move(options)),
      device(scheduler, seed + 1),
      rates_(rates),
      shape_(shape),
      random_(seed) {}

std::shared_ptr<plan::Request> World::random_request() {
  const auto below = [&](int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); };
  auto request = std::make_shared<plan::Request>();
  plan::SamplingParams& sampling = request->sampling;
  const int length = 1 + below(shape_.prompt_max);
  Random prefix(static_cast<uint64_t>(below(shape_.prefixes)) + 99);
  const int own = below(length + 1);  // tokens after the common beginning
  for (int i = 0; i < length; ++i) {
    request->prompt.push_back(
        static_cast<Token>((i < length - own ? prefix : random_)() % kVocabulary)
    );
  }
  sampling.max_new_tokens = below(12) == 0 ? -1 : 1 + below(shape_.output_max);
  sampling.seed = 1 + random_() % 100'000;
  sampling.repetition_penalty = below(4) == 0 ? 1.5f : 1.0f;
  request->n = below(4) == 0 ? 1 + below(shape_.choices_max) : 1;
  request->priority = below(3);
  request->embedding = below(12) == 0;
  if (request->embedding) request->n = 1;
  if (!request->embedding && length > 1 && below(6) == 0)
    request->prompt_logprobs_from = 1 + below(length - 1);
  if (!shape_.stops) {
    sampling.max_new_tokens = 1 + below(shape_.output_max);
    while (sick_at(*request) >= 0) ++sampling.seed;
    return request;
  }
  if (below(3) == 0) sampling.stop_ids = {below(kVocabulary)};
  if (below(3) == 0) sampling.stop = {"pair"};
  if (below(3) == 0) sampling.min_new_tokens = below(6);
  if (below(5) == 0) request->cache_salt = "salt";
  return request;
}

bool World::add(std::shared_ptr<const plan::Request> request) {
  const auto& options = scheduler.options();
  const auto first = static_cast<int64_t>(clients.size()) + 1;
  if (scheduler.add(request, first).refused()) return false;
  const int limit = sched::token_limit(options, *request);
  const int ahead = (options.depth + 2) * options.lookahead.advance_max + options.lookahead.span;
  for (int choice = 0; choice < request->n; ++choice) {
    const std::vector<Token> tokens = naive_tokens(*request, choice, limit + ahead);
    Client client{.request = request, .id = first + choice, .choice = choice};
    if (!request->embedding) {
      client.naive = cut_output(*request, tokens, limit);
      client.endless.assign(tokens.begin() + std::ssize(request->prompt), tokens.end());
    }
    clients.push_back(std::move(client));
    device.know(first + choice, tokens);
  }
  return true;
}

void World::cancel(Client& client) {
  client.cancelled = true;
  scheduler.cancel(client.id, FinishReason::abort);
}

void World::lose_rank() {
  device.lose();
  reports_.clear();
  scheduler.restart(++incarnation_);
}

bool World::plan_step() {
  if (!scheduler.plan(batch)) return false;
  device.launch(batch);
  if (preempt_every > 0 && batch.id % preempt_every == 0 && !batch.rows.empty()) {
    scheduler.preempt(batch.rows[random_() % batch.rows.size()].sequence);
  }
  return true;
}

bool World::commit_step() {
  if (!device.has_result()) return false;
  plan::StepResult result = device.take_result();
  scheduler.commit(result);
  return true;
}

void World::run_copy() {
  if (device.has_copy()) reports_.push_back(device.run_copy());
}

// One event of the machinery, in any order the contract allows. False: nothing was possible.
bool World::progress() {
  const size_t first = random_() % 6;
  for (size_t i = 0; i < 6; ++i) {
    switch ((first + i) % 6) {
      case 0:
        if (plan_step()) return true;
        break;
      case 1:
        if (device.can_execute()) return device.execute(), true;
        break;
      case 2:
        if (commit_step()) return true;
        break;
      case 3:
        if (device.has_copy()) return run_copy(), true;
        break;
      case 4:
        if (reports_.empty()) break;
        scheduler.copied(reports_.front().sequence, reports_.front().incarnation);
        return reports_.pop_front(), true;
      default:
        if (cuts_.empty()) break;
        scheduler.cancel(cuts_.front().id, FinishReason::stop, cuts_.front().keep);
        return cuts_.pop_front(), true;
    }
    // A plan without a step may still have queued copies or preempted.
    scheduler.take_copies(jobs_);
    device.queue(jobs_);
    if (!jobs_.empty()) return true;
  }
  return false;
}

void World::turn() {
  const auto dice = static_cast<int>(random_() % 1000);
  int at = 0;
  if (dice < (at += rates_.arrive)) {
    add(random_request());
  } else if (dice < (at += rates_.cancel)) {
    if (!clients.empty()) cancel(clients[random_() % clients.size()]);
  } else if (dice < (at += rates_.preempt)) {
    if (!clients.empty()) scheduler.preempt(clients[random_() % clients.size()].id);
  } else if (dice < (at += rates_.flush)) {
    CHECK(scheduler.flush() == scheduler.quiet(), "flush while not quiet");
  } else if (dice < (at += rates_.lose)) {
    lose_rank();
  } else {
    progress();
  }
  after();
}

void World::after() {
  scheduler.take_copies(jobs_);
  device.queue(jobs_);
  scheduler.take_outputs(outputs_);
  for (const plan::OutputRecord& record : outputs_.records) read(record);
  if (!checks) return;
  device.look_at_pool();
  scheduler.check();
}

// Of every prompt token that was asked about, once, in order.
void World::read_scores(Client& client, const plan::OutputRecord& record) {
  const auto& scores = outputs_.prompt_logprobs.at(static_cast<size_t>(record.prompt_logprobs));
  const int from = client.request->prompt_logprobs_from;
  CHECK(!client.scored && from > 0 && record.first == 0, "client {} is scored again", client.id);
  client.scored = true;
  CHECK(
      std::ssize(scores) == std::ssize(client.request->prompt) - from,
      "client {} has {} scores from {} on",
      client.id,
      scores.size(),
      from
  );
  for (size_t i = 0; i < scores.size(); ++i)
    CHECK(
        scores[i] == static_cast<float>(from) + static_cast<float>(i),
        "score {} of {}",
        i,
        client.id
    );
}

// The text worker: appends, cuts at a stop pair, closes the stream at the first end (S4).
void World::read(const plan::OutputRecord& record) {
  Client& client = clients.at(static_cast<size_t>(record.sequence - 1));
  CHECK(client.ends == 0, "client {} is told more after its end", client.id);  // I6
  CHECK(record.choice == client.choice, "client {} is choice {}", client.id, record.choice);
  if (record.finish) {
    ++client.ends;
    if (!client.closed) client.finish = record.finish;
    if (!client.closed) client.usage = record.usage;
  }
  if (record.embedding >= 0) {
    const float pooled = outputs_.embeddings.at(static_cast<size_t>(record.embedding)).at(0);
    CHECK(pooled == static_cast<float>(client.request->prompt.size()), "embedding {}", pooled);
  }
  if (record.prompt_logprobs >= 0) read_scores(client, record);
  if (client.closed) return;
  CHECK(
      record.first == static_cast<int>(client.seen.size()),
      "client {} has {} tokens, gets {}",
      client.id,
      client.seen.size(),
      record.first
  );
  for (int i = 0; i < record.token_count; ++i) {
    const Token token = outputs_.tokens.at(static_cast<size_t>(record.token_begin + i));
    if (!client.seen.empty() && stop_pair(*client.request, client.seen.back(), token)) {
      client.seen.pop_back();
      client.closed = true;
      client.finish = FinishReason::stop;
      cuts_.push_back({client.id, static_cast<int>(client.seen.size())});
      return;
    }
    client.seen.push_back(token);
  }
}

void World::check_client(const Client& client) const {
  const auto size = client.seen.size();
  CHECK(client.ends == 1, "client {} heard {} ends", client.id, client.ends);
  CHECK(size <= client.endless.size(), "client {} got {} tokens too many", client.id, size);
  for (size_t i = 0; i < size; ++i) {
    CHECK(client.seen[i] == client.endless[i], "client {} differs at {}", client.id, i);
  }
  // One that is cut short may have seen the first half of a stop pair.
  const auto most = client.naive.size() + !client.request->sampling.stop.empty();
  CHECK(size <= most, "client {} got {} tokens of {}", client.id, size, client.naive.size());
  const bool scores = client.request->prompt_logprobs_from > 0 && client.choice == 0;
  CHECK(!client.scored || scores, "client {} did not ask for scores", client.id);
  CHECK(client.seen.empty() || client.scored == scores, "client {} has no scores", client.id);
  if (client.cancelled) return;
  const auto whole = client.naive.size();
  const int sick = client.request->embedding ? -1 : sick_at(*client.request);
  const auto last = static_cast<int>(whole) + scheduler.options().lookahead.advance_max;
  if (client.finish == FinishReason::failed) {
    CHECK(sick >= 0 && sick <= last, "client {} failed", client.id);
    return;
  }
  CHECK(size == whole, "client {} got {} of {} tokens", client.id, size, whole);
  CHECK(sick < 0 || sick >= static_cast<int>(whole), "client {} did not fail", client.id);
  if (client.closed) return;
  CHECK(client.usage.completion_tokens == static_cast<int>(size), "usage of {}", client.id);
}

void World::check_clients() const {
  for (const Client& client : clients) check_client(client);
}

void World::finish() {
  for (int idle = 0; !scheduler.quiet() || !reports_.empty() || device.has_copy(); after()) {
    CHECK(idle < 2, "nothing moves, but {} sequences live (I13)", scheduler.stats().running);
    idle = progress() ? 0 : idle + 1;
  }
  cuts_.clear();
  const sched::SchedulerStats stats = scheduler.stats();  // I9
  CHECK(
      stats.pages_free + stats.pages_tree == stats.pages_total,
      "{} pages free, {} cached of {}",
      stats.pages_free,
      stats.pages_tree,
      stats.pages_total
  );
  CHECK(stats.pages_evictable == stats.pages_tree, "{} locked", stats.pages_tree);
  CHECK(stats.host_pages_used == 0, "{} host pages are lost", stats.host_pages_used);
}

}  // namespace fathom::sim
