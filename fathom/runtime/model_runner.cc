#include "fathom/runtime/model_runner.h"

#include <cmath>
#include <cstring>

namespace fathom::runtime {
namespace {

// Bytes of scratch for the sampled rows' hidden states and logprobs, beside the model's own.
int64_t sampling_bytes(const models::ModelConfig& config, int rows) {
  constexpr int64_t kMostLogprobs = 64;
  return rows * (config.hidden * 4 + kMostLogprobs * 8) + 16 * Workspace::kAlign;
}

}  // namespace

ModelRunner::ModelRunner(
    const models::Model& model, layers::KvCache& cache, const Exec& exec, int rows
)
    : model_(model), cache_(cache), exec_(exec), sampler_(rows) {
  exec_.workspace = &workspace_;
  sample_rows_.reserve(static_cast<size_t>(rows));
  sample_batch_rows_.reserve(static_cast<size_t>(rows));
  sample_hidden_rows_.reserve(static_cast<size_t>(rows));
}

Result<std::unique_ptr<ModelRunner>> ModelRunner::make(
    const models::Model& model,
    layers::KvCache& cache,
    const Exec& exec,
    MemoryLedger& ledger,
    StepCapacity capacity,
    std::vector<plan::Token> end_tokens,
    Pooling pooling
) {
  std::unique_ptr<ModelRunner> runner(new ModelRunner(model, cache, exec, capacity.rows));
  runner->pooling_ = pooling;
  const models::StepLimits limits{
      .tokens = capacity.tokens, .rows = capacity.rows, .logit_rows = capacity.rows};
  int64_t bytes = model.max_step_bytes(limits) + sampling_bytes(model.config(), capacity.rows);
  // Pooling by mean asks for the hidden state of every token.
  if (pooling == Pooling::mean) bytes += int64_t{8} * capacity.tokens * model.config().hidden;
  Result<Buffer> memory = Buffer::allocate(ledger, exec.device, bytes, Purpose::workspace);
  if (!memory) return memory.error();
  runner->workspace_ = Workspace(std::move(*memory));
  Result<Staging> staging = Staging::allocate(ledger, exec.device, capacity);
  if (!staging) return staging.error();
  runner->staging_ = std::move(*staging);
  Result<SlotTable> slots = SlotTable::allocate(
      ledger, exec.device, capacity.slots, model.config().vocab, std::move(end_tokens)
  );
  if (!slots) return slots.error();
  runner->slots_ = std::move(*slots);
  return runner;
}

void ModelRunner::run(const plan::Batch& batch, plan::StepResult& result) {
  result.id = batch.id;
  result.incarnation = batch.incarnation;
  result.rows.assign(batch.rows.size(), {});
  result.tokens.clear();
  result.logprobs.clear();
  result.embeddings.clear();
  if (batch.rows.empty()) return;
  for (const plan::SlotReset& reset : batch.resets) slots_.reset(batch, reset);
  const auto all_hidden = [&](int32_t slot) {
    return pooling_ == Pooling::mean && slots_[slot].request->embedding;
  };
  Workspace::Mark mark(workspace_);
  const layers::BatchView& view = staging_.stage(batch, slots_, all_hidden);
  const Tensor hidden = model_.forward(exec_, view, cache_);
  sample_rows_.clear();
  sample_batch_rows_.clear();
  sample_hidden_rows_.clear();
  for (const StagedRow& staged : staging_.rows()) {
    const plan::Row& row = batch.rows[static_cast<size_t>(staged.batch_row)];
    Slot& slot = slots_[row.slot];
    slot.position = staged.start + staged.count;
    result.rows[static_cast<size_t>(staged.batch_row)].start = staged.start;
    if (!row.emits || slot.request->embedding) continue;
    sample_rows_.push_back({.slot = row.slot, .position = slot.position});
    sample_batch_rows_.push_back(staged.batch_row);
    sample_hidden_rows_.push_back(staged.logit_begin);
  }
  pool_embeddings(batch, hidden, result);
  if (!sample_rows_.empty()) draw_tokens(hidden, result);
}

void ModelRunner::draw_tokens(const Tensor& hidden, plan::StepResult& result) {
  const Tensor logits = model_.logits(exec_, sampled_hidden(hidden));
  probe(exec_, "logits", logits);
  sampler_.run(exec_, logits, sample_rows_, slots_);
  for (size_t i = 0; i < sample_rows_.size(); ++i) {
    plan::RowResult& answer = result.rows[static_cast<size_t>(sample_batch_rows_[i])];
    answer.accepted = 1;
    answer.healthy = sampler_.healthy(i);
    answer.token_begin = static_cast<int32_t>(result.tokens.size());
    result.tokens.push_back(sampler_.token(i));
    if (sampler_.has_logprobs()) result.logprobs.push_back(sampler_.logprob(i));
  }
}

// The rows of `hidden` to draw from; all of them, usually, and then no copy is made.
Tensor ModelRunner::sampled_hidden(const Tensor& hidden) {
  const auto n = static_cast<int64_t>(sample_rows_.size());
  if (n == hidden.dim(0)) return hidden;
  const Tensor sampled = workspace_.alloc(hidden.dtype, {n, hidden.dim(1)});
  for (int64_t i = 0; i < n; ++i) {
    const Tensor from = hidden.row(sample_hidden_rows_[static_cast<size_t>(i)]);
    std::memcpy(sampled.row(i).data, from.data, static_cast<size_t>(from.bytes()));
  }
  return sampled;
}

void ModelRunner::pool_embeddings(
    const plan::Batch& batch, const Tensor& hidden, plan::StepResult& result
) {
  for (const StagedRow& staged : staging_.rows()) {
    const plan::Row& row = batch.rows[static_cast<size_t>(staged.batch_row)];
    Slot& slot = slots_[row.slot];
    if (!slot.request->embedding || staged.logit_count == 0) continue;
    slot.pooled.resize(static_cast<size_t>(hidden.dim(1)), 0.0);
    for (int32_t k = 0; k < staged.logit_count; ++k) {
      const float* state = hidden.row(staged.logit_begin + k).as<float>();
      for (size_t c = 0; c < slot.pooled.size(); ++c)
        slot.pooled[c] += static_cast<double>(state[c]);
    }
    if (!row.emits) continue;
    // Unit length, as clients of embeddings expect; the mean's divisor falls out.
    double square = 0;
    for (const double v : slot.pooled) square += v * v;
    const double scale = square > 0 ? 1.0 / std::sqrt(square) : 0.0;
    result.embeddings.resize(batch.rows.size());
    std::vector<float>& vector = result.embeddings[static_cast<size_t>(staged.batch_row)];
    vector.resize(slot.pooled.size());
    for (size_t c = 0; c < vector.size(); ++c)
      vector[c] = static_cast<float>(slot.pooled[c] * scale);
    result.rows[static_cast<size_t>(staged.batch_row)].healthy = std::isfinite(square);
  }
}

}  // namespace fathom::runtime
