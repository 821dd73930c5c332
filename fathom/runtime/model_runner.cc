#include "fathom/runtime/model_runner.h"

#include <algorithm>

#include "fathom/ops/embed/row_gather.h"
#include "fathom/ops/sample/token_select.h"

namespace fathom::runtime {
namespace {

// Bytes of scratch for the sampled rows' hidden states and the kernels' own, beside the model's.
int64_t extra_bytes(const models::ModelConfig& config, const Exec& exec, int rows) {
  // Partial sums of split kernels on a GPU.
  constexpr int64_t kKernels = int64_t{64} << 20;
  const int64_t sampled = rows * config.hidden * 4 + 16 * Workspace::kAlign;
  if (exec.device.is_cuda()) return sampled + kKernels;
  return sampled + ops::sample_scratch_bytes(config.vocab, exec.threads());
}

}  // namespace

ModelRunner::ModelRunner(
    const models::Model& model,
    layers::KvCache& cache,
    const Exec& exec,
    DeviceQueue& queue,
    StepCapacity capacity,
    RunnerOptions options
)
    : model_(model),
      cache_(cache),
      exec_(exec),
      queue_(queue),
      options_(std::move(options)),
      scorer_(model, capacity.rows),
      sampler_(inputs_, capacity.rows, capacity.slots),
      hidden_rows_(inputs_.place<int32_t>(capacity.rows)),
      staging_(inputs_, capacity),
      graphs_(queue, capacity.rows, options_.graphs) {
  exec_.workspace = &workspace_;
  const auto rows = static_cast<size_t>(capacity.rows);
  sample_rows_.reserve(rows);
  for (Started& step : steps_) {
    step.head.rows.reserve(rows);
    step.sampled.reserve(rows);
  }
}

Result<std::unique_ptr<ModelRunner>> ModelRunner::make(
    const models::Model& model,
    layers::KvCache& cache,
    const Exec& exec,
    DeviceQueue& queue,
    MemoryLedger& ledger,
    StepCapacity capacity,
    RunnerOptions options
) {
  const models::ModelConfig& config = model.config();
  std::unique_ptr<ModelRunner> runner(
      new ModelRunner(model, cache, exec, queue, capacity, std::move(options))
  );
  const models::StepLimits limits{
      .tokens = capacity.tokens, .rows = capacity.rows, .logit_rows = capacity.rows};
  int64_t bytes = model.max_step_bytes(limits) + extra_bytes(config, exec, capacity.rows);
  // Of every token, as pooling by mean and log probabilities of prompts want them, before and after
  // the last norm.
  bytes += (exec.device.is_cuda() ? 4 : 8) * int64_t{capacity.tokens} * config.hidden;
  Result<Buffer> memory = Buffer::allocate(ledger, exec.device, bytes, Purpose::workspace);
  if (!memory) return memory.error();
  runner->workspace_ = Workspace(std::move(*memory));
  if (Result<void> made = runner->inputs_.allocate(ledger, exec.device); !made) return made.error();
  if (Result<void> made = runner->sampler_.allocate(ledger, exec.device); !made)
    return made.error();
  Result<SlotTable> slots = SlotTable::allocate(
      ledger, exec.device, capacity.slots, config.vocab, runner->options_.end_tokens
  );
  if (!slots) return slots.error();
  runner->slots_ = std::move(*slots);
  return runner;
}

void ModelRunner::run(const plan::Batch& batch, plan::StepResult& result) {
  start(batch);
  finish(result);
}

bool ModelRunner::wants_all_hidden(const plan::Row& row) {
  return row.scores || (options_.pooling == Pooling::mean && slots_[row.slot].request->embedding);
}

// A graph computes one token of each row and its logits.
bool ModelRunner::replayable(const plan::Batch& batch) {
  return exec_.probe == nullptr &&
         std::all_of(batch.rows.begin(), batch.rows.end(), [&](const plan::Row& row) {
           return row.count == 1 && row.emits && !row.scores &&
                  !slots_[row.slot].request->embedding;
         });
}

void ModelRunner::start(const plan::Batch& batch) {
  const int turn = turn_of(started_);
  Started& step = steps_[static_cast<size_t>(turn)];
  step.head.id = batch.id;
  step.head.incarnation = batch.incarnation;
  step.head.rows.assign(batch.rows.size(), {});
  step.head.embeddings.clear();
  step.head.prompt_logprobs.clear();
  step.sampled.clear();
  if (!batch.rows.empty()) {
    for (const plan::SlotReset& reset : batch.resets) slots_.reset(queue_, batch, reset);
    const int padded =
        replayable(batch) ? graphs_.rows_for(static_cast<int>(batch.rows.size())) : 0;
    inputs_.begin(turn);
    stage(batch, step, padded);
    inputs_.upload(queue_);
    sampler_.upload(queue_);
    Workspace::Mark mark(workspace_);
    if (padded > 0) {
      replay(padded);
    } else {
      launch(batch, step);
    }
    if (!sample_rows_.empty()) sampler_.download(queue_);
  }
  queue_.mark(turn);
  ++started_;
}

// A special draw comes behind the graph.
void ModelRunner::replay(int rows) {
  const DrawKind kind = sampler_.kind();
  const Tensor logits = graphs_.run({rows, kind}, workspace_, [this, kind] {
    const Tensor drawn = model_.logits(exec_, forward());
    if (kind != DrawKind::special) sampler_.draw(exec_, drawn, slots_);
    return drawn;
  });
  if (kind == DrawKind::special) sampler_.draw(exec_, logits, slots_);
}

void ModelRunner::launch(const plan::Batch& batch, Started& step) {
  const Tensor hidden = forward();
  pool_embeddings(batch, hidden, step);
  scorer_.score(exec_, queue_, batch, staging_.rows(), slots_, hidden, step.head);
  if (sample_rows_.empty()) return;
  const Tensor logits = model_.logits(exec_, sampled_hidden(hidden));
  probe(exec_, "logits", logits);
  sampler_.draw(exec_, logits, slots_);
}

void ModelRunner::stage(const plan::Batch& batch, Started& step, int padded_rows) {
  const auto all_hidden = [this](const plan::Row& row) { return wants_all_hidden(row); };
  view_ = &staging_.stage(batch, slots_, all_hidden, padded_rows);
  sample_rows_.clear();
  inputs_.clear(hidden_rows_);
  for (const StagedRow& staged : staging_.rows()) {
    const plan::Row& row = batch.rows[static_cast<size_t>(staged.batch_row)];
    Slot& slot = slots_[row.slot];
    slot.position = staged.start + staged.count;
    step.head.rows[static_cast<size_t>(staged.batch_row)].start = staged.start;
    if (!row.emits || slot.request->embedding) continue;
    sample_rows_.push_back({.slot = row.slot, .position = slot.position});
    step.sampled.push_back(staged.batch_row);
    inputs_.push(hidden_rows_, staged.logit_begin + staged.logit_count - 1);
  }
  sampler_.gather(sample_rows_, slots_, turn_of(started_), padded_rows);
}

Tensor ModelRunner::forward() {
  ops::token_select(
      exec_, {.source = slots_.next_token(), .index = staging_.token_slots(), .y = view_->tokens}
  );
  return model_.forward(exec_, *view_, cache_);
}

// The rows of `hidden` to draw from; all of them, usually, and then no copy is made.
Tensor ModelRunner::sampled_hidden(const Tensor& hidden) {
  const auto n = static_cast<int64_t>(sample_rows_.size());
  if (n == hidden.dim(0)) return hidden;
  const Tensor sampled = workspace_.alloc(hidden.dtype, {n, hidden.dim(1)});
  const Tensor rows = inputs_.device(hidden_rows_, DType::i32, n);
  ops::row_gather(exec_, {.x = hidden, .rows = rows, .y = sampled});
  return sampled;
}

// On the host: an embedding request's step waits for its hidden states.
void ModelRunner::pool_embeddings(const plan::Batch& batch, const Tensor& hidden, Started& step) {
  Tensor host = hidden;
  std::vector<uint8_t> memory;
  for (const StagedRow& staged : staging_.rows()) {
    const plan::Row& row = batch.rows[static_cast<size_t>(staged.batch_row)];
    if (!slots_[row.slot].request->embedding || staged.logit_count == 0) continue;
    if (exec_.device.is_cuda() && memory.empty()) {
      memory.resize(static_cast<size_t>(hidden.bytes()));
      queue_.download(memory.data(), hidden.data, hidden.bytes());
      queue_.wait_all();
      host.data = memory.data();
      host.device = Device::cpu();
    }
    pool(row, staged, host, step);
  }
}

void ModelRunner::pool(
    const plan::Row& row, const StagedRow& staged, const Tensor& hidden, Started& step
) {
  Slot& slot = slots_[row.slot];
  for (int32_t k = 0; k < staged.logit_count; ++k)
    add_state(slot.pooled, hidden.row(staged.logit_begin + k));
  if (!row.emits) return;
  step.head.embeddings.resize(step.head.rows.size());
  const auto at = static_cast<size_t>(staged.batch_row);
  step.head.rows[at].healthy = unit_vector(slot.pooled, step.head.embeddings[at]);
}

void ModelRunner::finish(plan::StepResult& result) {
  const int turn = turn_of(finished_++);
  queue_.wait(turn);
  const Started& step = steps_[static_cast<size_t>(turn)];
  result.id = step.head.id;
  result.incarnation = step.head.incarnation;
  result.embeddings = step.head.embeddings;
  result.prompt_logprobs = step.head.prompt_logprobs;
  result.tokens.clear();
  result.logprobs.clear();
  // No growth later, when a step happens to be the largest yet or the first with log probabilities.
  result.rows.reserve(sample_rows_.capacity());
  result.tokens.reserve(sample_rows_.capacity());
  result.logprobs.reserve(sample_rows_.capacity());
  result.rows = step.head.rows;
  for (size_t i = 0; i < step.sampled.size(); ++i) {
    plan::RowResult& answer = result.rows[static_cast<size_t>(step.sampled[i])];
    answer.accepted = 1;
    answer.healthy = sampler_.healthy(turn, i);
    answer.token_begin = static_cast<int32_t>(result.tokens.size());
    result.tokens.push_back(sampler_.token(turn, i));
    if (sampler_.has_logprobs(turn)) result.logprobs.push_back(sampler_.logprob(turn, i));
  }
}

}  // namespace fathom::runtime
