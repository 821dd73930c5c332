#include "tests/engine/sim/device.h"

#include <algorithm>

#include "fathom/base/check.h"

namespace fathom::sim {
namespace {

constexpr Prefix kPoison = 0;
constexpr Prefix kJunk = 1;  // written by a draft that was not accepted

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace

Prefix extend(Prefix prefix, Token token) {
  return mix(prefix * 31 + static_cast<uint32_t>(token) + 0x9E3779B97F4A7C15u) | 2;
}

Token next_token(const plan::Request& request, int choice, int output_index, Prefix prefix) {
  const plan::SamplingParams& sampling = request.sampling;
  const uint64_t draw = mix(prefix ^ mix(sampling.seed + static_cast<uint64_t>(choice)));
  auto token = static_cast<Token>(draw % kVocabulary);
  const auto stop = [&] { return std::ranges::count(sampling.stop_ids, token) > 0; };
  while (output_index < sampling.min_new_tokens && stop()) token = (token + 1) % kVocabulary;
  return token;
}

int sick_at(const plan::Request& request) {
  return request.sampling.seed % 31 == 0 ? static_cast<int>(request.sampling.seed / 31 % 5) : -1;
}

std::vector<Token> naive_tokens(const plan::Request& request, int choice, int count) {
  std::vector<Token> tokens = request.prompt;
  Prefix prefix = 0;
  for (const Token token : tokens) prefix = extend(prefix, token);
  while (static_cast<int>(tokens.size()) < count) {
    const auto index = static_cast<int>(tokens.size() - request.prompt.size());
    tokens.push_back(next_token(request, choice, index, prefix));
    prefix = extend(prefix, tokens.back());
  }
  return tokens;
}

SimDevice::SimDevice(const sched::Scheduler& scheduler, uint64_t seed)
    : scheduler_(scheduler), page_size_(scheduler.options().page_size), random_(seed) {
  const auto& options = scheduler.options();
  memory_.resize(static_cast<size_t>(options.pages * page_size_), kPoison);
  host_memory_.resize(static_cast<size_t>((options.host_pages + 1) * page_size_), kPoison);
  slots_.resize(static_cast<size_t>(options.max_running));
}

void SimDevice::know(int64_t id, std::vector<Token> tokens) {
  std::vector<Prefix>& prefixes = expected_[id];
  Prefix prefix = 0;
  for (const Token token : tokens) prefixes.push_back(prefix = extend(prefix, token));
}

void SimDevice::launch(const plan::Batch& batch) {
  CHECK(batch.page_begin.size() == batch.rows.size() + 1, "page_begin of {}", batch.rows.size());
  steps_.push_back({batch, {.id = batch.id, .incarnation = batch.incarnation}});
}

Prefix& SimDevice::content(PageId page, int offset) {
  return memory_[static_cast<size_t>(page * page_size_ + offset)];
}

Prefix& SimDevice::at(std::span<const PageId> table, int position) {
  const auto page = static_cast<size_t>(position / page_size_);
  CHECK(page < table.size(), "position {} beyond a table of {}", position, table.size());
  return content(table[page], position % page_size_);
}

// I4, I8.
void SimDevice::check_history(int64_t sequence, std::span<const PageId> table, int length) {
  const std::vector<Prefix>& expected = expected_.at(sequence);
  for (int p = 0; p < length; ++p) {
    CHECK(
        at(table, p) == expected[static_cast<size_t>(p)],
        "sequence {} reads page {} at {}{}",
        sequence,
        table[static_cast<size_t>(p / page_size_)],
        p,
        at(table, p) == kPoison ? ": poison" : ""
    );
  }
}

// I3.
void SimDevice::write(std::span<const PageId> table, int position, Prefix prefix) {
  at(table, position) = prefix;
  const PageId page = table[static_cast<size_t>(position / page_size_)];
  CHECK(!scheduler_.pool().is_free(page), "page {} is written but free", page);
  CHECK(!scheduler_.tree().contains(page), "page {} is written but in the tree", page);
}

void SimDevice::execute() {
  Step& step = steps_.at(executed_++);
  for (const plan::SlotReset& reset : step.batch.resets) {
    Slot& slot = slots_.at(static_cast<size_t>(reset.slot));
    slot = {.choice = reset.choice, .prompt = reset.prompt, .request = reset.request};
  }
  for (size_t i = 0; i < step.batch.rows.size(); ++i) execute_row(step, i);
}

void SimDevice::execute_row(Step& step, size_t index) {
  const plan::Batch& batch = step.batch;
  const plan::Row& row = batch.rows[index];
  const auto begin = static_cast<size_t>(batch.page_begin[index]);
  const auto end = static_cast<size_t>(batch.page_begin[index + 1]);
  const auto table = std::span(batch.pages).subspan(begin, end - begin);
  Slot& slot = slots_.at(static_cast<size_t>(row.slot));
  CHECK(slot.request != nullptr, "slot {} was never reset", row.slot);
  if (slot.sequence == 0) slot.sequence = row.sequence;
  CHECK(slot.sequence == row.sequence, "slot {} is of {}", row.slot, slot.sequence);

  plan::RowResult done{.start = row.start};
  done.token_begin = static_cast<int32_t>(step.result.tokens.size());
  size_t before = 0;
  for (size_t i = 0; i < index; ++i) before += static_cast<size_t>(batch.rows[i].count);
  const auto input = std::span(batch.tokens).subspan(before, static_cast<size_t>(row.count));
  if (row.from_device) {
    CHECK(!row.chunk && slot.position <= row.start, "sequence {} has no position", row.sequence);
    done.start = slot.position;
  } else {
    slot.token = input[0];
    slot.position = row.start;
  }
  check_history(row.sequence, table, done.start);
  if (row.chunk) {
    run_chunk(step, row, slot, table, input);
  } else {
    run_decode(step, row, slot, table);
  }
  const int outputs = done.start + (row.chunk ? row.count : 1) - slot.prompt;
  done.accepted = static_cast<int32_t>(step.result.tokens.size()) - done.token_begin;
  const int sick = sick_at(*slot.request);
  done.healthy = !row.emits || sick < outputs || sick >= outputs + done.accepted;
  if (row.embeds && row.emits) {
    step.result.embeddings.resize(batch.rows.size());
    step.result.embeddings[index] = {static_cast<float>(row.start + row.count)};
  }
  for (int p = row.start + 1; row.scores && p <= row.start + row.count; ++p) {
    if (p >= slot.request->prompt_logprobs_from && p < slot.prompt)
      slot.scores.push_back(static_cast<float>(p));
  }
  if (row.scores && row.emits) {
    step.result.prompt_logprobs.resize(batch.rows.size());
    step.result.prompt_logprobs[index] = slot.scores;
  }
  step.result.rows.push_back(done);
}

void SimDevice::run_chunk(
    Step& step,
    const plan::Row& row,
    Slot& slot,
    std::span<const PageId> table,
    std::span<const Token> input
) {
  Prefix prefix = row.start > 0 ? at(table, row.start - 1) : 0;
  for (int i = 0; i < row.count; ++i) {
    prefix = extend(prefix, input[static_cast<size_t>(i)]);
    write(table, row.start + i, prefix);
  }
  slot.position = row.start + row.count;
  if (!row.emits || row.embeds) return;
  slot.token = next_token(*slot.request, slot.choice, slot.position - slot.prompt, prefix);
  step.result.tokens.push_back(slot.token);
}

void SimDevice::run_decode(
    Step& step, const plan::Row& row, Slot& slot, std::span<const PageId> table
) {
  const auto& ahead = scheduler_.options().lookahead;
  const int most = row.plain ? 1 : ahead.advance_max;
  const int accepted = 1 + static_cast<int>(random_() % static_cast<uint64_t>(most));
  const int start = slot.position;
  Prefix prefix = start > 0 ? at(table, start - 1) : 0;
  for (int i = 0; i < (row.plain ? 1 : ahead.span); ++i) {
    if (i >= accepted) {
      write(table, start + i, kJunk);
      continue;
    }
    prefix = extend(prefix, slot.token);
    write(table, start + i, prefix);
    slot.position = start + i + 1;
    slot.token = next_token(*slot.request, slot.choice, slot.position - slot.prompt, prefix);
    step.result.tokens.push_back(slot.token);
  }
}

plan::StepResult SimDevice::take_result() {
  CHECK(executed_ > 0, "no step has executed");
  plan::StepResult result = std::move(steps_.front().result);
  steps_.pop_front();
  --executed_;
  return result;
}

void SimDevice::queue(const plan::CopyJobs& jobs) {
  for (const plan::CopyJob& job : jobs.jobs) {
    const auto begin = jobs.device.begin() + job.page_begin;
    const auto host = jobs.host.begin() + job.page_begin;
    copies_.push_back({job, {begin, begin + job.page_count}, {host, host + job.page_count}});
  }
}

plan::CopyJob SimDevice::run_copy() {
  const size_t which = random_() % copies_.size();
  const Copy copy = std::move(copies_[which]);
  copies_.erase(copies_.begin() + static_cast<int64_t>(which));
  for (size_t i = 0; i < copy.device.size(); ++i) {
    Prefix* device = &content(copy.device[i], 0);
    Prefix* host = &host_memory_.at(static_cast<size_t>(copy.host[i] * page_size_));
    std::copy_n(copy.job.out ? device : host, page_size_, copy.job.out ? host : device);
  }
  return copy.job;
}

void SimDevice::lose() {
  steps_.clear();
  executed_ = 0;
  copies_.clear();
  std::ranges::fill(memory_, kPoison);
  std::ranges::fill(slots_, Slot{});
}

void SimDevice::look_at_pool() {
  const cache::PagePool& pool = scheduler_.pool();
  for (PageId page = 1; page < pool.total(); ++page) {
    if (pool.is_free(page)) std::fill_n(&content(page, 0), page_size_, kPoison);
  }
  for (const Step& step : steps_) {
    for (const PageId page : step.batch.pages) {
      CHECK(!pool.is_free(page), "page {} of step {} is free", page, step.batch.id);
    }
  }
  for (const Copy& copy : copies_) {
    for (const PageId page : copy.device) {
      CHECK(pool.is_granted(page), "page {} of a copy was dropped", page);
    }
  }
}

}  // namespace fathom::sim
