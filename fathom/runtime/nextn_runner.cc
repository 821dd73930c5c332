#include "fathom/runtime/nextn_runner.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "fathom/ops/sample/sample.h"
#include "fathom/ops/sample/token_select.h"

namespace fathom::runtime {
namespace {

// Bytes of scratch for the rows that tokens are drawn from: their hidden states, logits and the
// draw itself.
int64_t sampling_bytes(
    const models::ModelConfig& config, const Exec& exec, int64_t nodes, int64_t rows
) {
  return nodes * config.hidden * 4 + rows * config.vocab * 4 +
         ops::sample_scratch_bytes(config.vocab, exec.threads()) + 16 * Workspace::kAlign;
}

}  // namespace

NextnRunner::NextnRunner(
    const models::Model& model,
    layers::KvCache& cache,
    const Exec& exec,
    DeviceQueue& queue,
    const StepCapacity& capacity,
    RunnerOptions options,
    const Speculation& speculation
)
    : model_(model),
      cache_(cache),
      exec_(exec),
      queue_(queue),
      options_(std::move(options)),
      scorer_(model, capacity.rows),
      staging_(inputs_, capacity),
      sampler_(
          draws_,
          capacity.rows,
          capacity.slots,
          speculation.exact() ? 0 : capacity.rows * speculation.nodes,
          {speculation.threshold_single, speculation.threshold_acc}
      ) {
  exec_.workspace = &workspace_;
  const auto n = static_cast<size_t>(capacity.rows);
  walks_.reserve(n);
  active_.reserve(n);
  sample_rows_.reserve(n);
  advances_.reserve(n);
  children_.reserve(n * static_cast<size_t>(speculation.nodes));
}

Result<std::unique_ptr<NextnRunner>> NextnRunner::make(
    const models::Model& model,
    layers::KvCache& cache,
    const Exec& exec,
    DeviceQueue& queue,
    MemoryLedger& ledger,
    const StepCapacity& capacity,
    RunnerOptions options,
    const Speculation& speculation
) {
  Result<std::unique_ptr<NextnDecoder>> decoder =
      NextnDecoder::make(model, cache, ledger, exec.device, capacity, speculation);
  if (!decoder) return decoder.error();
  std::unique_ptr<NextnRunner> runner(
      new NextnRunner(model, cache, exec, queue, capacity, std::move(options), speculation)
  );
  runner->decoder_ = std::move(*decoder);
  if (Result<void> made = runner->allocate(ledger, capacity, speculation); !made)
    return made.error();
  return runner;
}

Result<void> NextnRunner::allocate(
    MemoryLedger& ledger, const StepCapacity& capacity, const Speculation& speculation
) {
  const models::ModelConfig& config = model_.config();
  const int64_t tokens = std::max<int64_t>(capacity.tokens, decoder_->step_tokens());
  const int64_t nodes = int64_t{capacity.rows} * speculation.nodes;
  const models::StepLimits limits{.tokens = tokens, .rows = capacity.rows, .logit_rows = nodes};
  // The hidden states of all tokens beside what the model and the draft layer take.
  const int64_t bytes = model_.max_step_bytes(limits) + decoder_->step_bytes() +
                        sampling_bytes(config, exec_, nodes, capacity.rows) +
                        8 * tokens * config.hidden;
  Result<Buffer> memory = Buffer::allocate(ledger, exec_.device, bytes, Purpose::workspace);
  if (!memory) return memory.error();
  workspace_ = Workspace(std::move(*memory));
  for (StepMemory* step : {&inputs_, &draws_}) {
    if (Result<void> made = step->allocate(ledger, exec_.device); !made) return made;
  }
  if (Result<void> made = sampler_.allocate(ledger, exec_.device); !made) return made;
  Result<SlotTable> slots =
      SlotTable::allocate(ledger, exec_.device, capacity.slots, config.vocab, options_.end_tokens);
  if (!slots) return slots.error();
  slots_ = std::move(*slots);
  return {};
}

void NextnRunner::run(const plan::Batch& batch, plan::StepResult& result) {
  result.id = batch.id;
  result.incarnation = batch.incarnation;
  result.rows.assign(batch.rows.size(), {});
  result.tokens.clear();
  result.logprobs.clear();
  result.embeddings.clear();
  result.prompt_logprobs.clear();
  if (batch.rows.empty()) return;
  for (const plan::SlotReset& reset : batch.resets) slots_.reset(queue_, batch, reset);
  Workspace::Mark mark(workspace_);
  decoder_->draft(exec_, batch, slots_);
  inputs_.begin(0);
  const layers::BatchView& view =
      staging_.stage(batch, slots_, [](const plan::Row&) { return true; });
  ops::token_select(
      exec_, {.source = slots_.next_token(), .index = staging_.token_slots(), .y = view.tokens}
  );
  const Tensor hidden = model_.forward(exec_, view, cache_);
  start_walks(batch, result);
  pool_embeddings(batch, hidden, result);
  scorer_.score(exec_, queue_, batch, staging_.rows(), slots_, hidden, result);
  if (walking_ > 0) draw_tokens(hidden);
  report_walks(result);
  advance_drafts(batch, view.tokens, hidden);
}

NextnRunner::Walk& NextnRunner::next_walk() {
  if (walking_ == walks_.size()) walks_.emplace_back();
  Walk& walk = walks_[walking_++];
  walk.healthy = true;
  walk.tokens.clear();
  walk.nodes.clear();
  walk.logprobs.clear();
  return walk;
}

void NextnRunner::start_walks(const plan::Batch& batch, plan::StepResult& result) {
  walking_ = 0;
  walk_of_.clear();
  wanted_rows_.clear();
  for (const StagedRow& staged : staging_.rows()) {
    const plan::Row& row = batch.rows[static_cast<size_t>(staged.batch_row)];
    Slot& slot = slots_[row.slot];
    slot.position = staged.start + staged.count;
    result.rows[static_cast<size_t>(staged.batch_row)].start = staged.start;
    const bool draws = row.emits && !slot.request->embedding;
    walk_of_.push_back(draws ? static_cast<int32_t>(walking_) : -1);
    if (!draws) continue;
    Walk& walk = next_walk();
    walk.batch_row = staged.batch_row;
    walk.slot = row.slot;
    walk.verify = !row.chunk && row.count > 1;
    walk.position = walk.verify ? staged.start + 1 : slot.position;
    walk.logits = static_cast<int32_t>(wanted_rows_.size());
    const int32_t last = staged.logit_begin + staged.logit_count;
    for (int32_t i = walk.verify ? staged.logit_begin : last - 1; i < last; ++i)
      wanted_rows_.push_back(i);
  }
}

// All walks draw a token, then those whose token a drafted node holds draw the next one there.
void NextnRunner::draw_tokens(const Tensor& hidden) {
  const Tensor logits = model_.logits(exec_, rows_of(hidden, wanted_rows_));
  probe(exec_, "logits", logits);
  active_.resize(walking_);
  std::iota(active_.begin(), active_.end(), size_t{0});
  while (!active_.empty()) {
    Workspace::Mark mark(workspace_);
    sample_rows_.clear();
    active_logits_.clear();
    children_.clear();
    for (const size_t i : active_) add_sample_row(walks_[i]);
    draws_.begin(0);
    sampler_.gather(sample_rows_, slots_, 0);
    sampler_.upload(queue_);
    sampler_.draw(exec_, rows_of(logits, active_logits_), slots_);
    sampler_.download(queue_);
    size_t drawn = 0;
    std::erase_if(active_, [&](size_t i) { return !walk_on(walks_[i], drawn++); });
  }
}

void NextnRunner::add_sample_row(const Walk& walk) {
  const int32_t node = walk.nodes.empty() ? 0 : walk.nodes.back();
  active_logits_.push_back(walk.logits + node);
  const size_t from = children_.size();
  if (walk.verify && !decoder_->speculation().exact()) {
    for (const DraftTree::Node& child : slots_[walk.slot].tree.nodes)
      if (child.parent == node) children_.push_back(child.token);
  }
  sample_rows_.push_back(
      {.slot = walk.slot,
       .position = walk.position + static_cast<int32_t>(walk.tokens.size()),
       .drafts = std::span(children_).subspan(from)}
  );
}

// Takes the sampler's answer; true when the walk goes on in a child.
bool NextnRunner::walk_on(Walk& walk, size_t drawn) {
  const plan::Token token = sampler_.token(0, drawn);
  const int32_t node = walk.nodes.empty() ? 0 : walk.nodes.back();
  walk.healthy = sampler_.healthy(0, drawn);
  walk.tokens.push_back(token);
  slots_[walk.slot].position = walk.position + static_cast<int32_t>(walk.tokens.size()) - 1;
  walk.logprobs.push_back(
      sampler_.has_logprobs(0) ? sampler_.logprob(0, drawn) : plan::TokenLogprob{}
  );
  if (walk.nodes.empty()) walk.nodes.push_back(0);
  const int32_t child =
      walk.verify && walk.healthy ? slots_[walk.slot].tree.child(node, token) : -1;
  if (child >= 0) walk.nodes.push_back(child);
  return child >= 0;
}

void NextnRunner::report_walks(plan::StepResult& result) {
  bool logprobs = false;
  for (size_t i = 0; i < walking_; ++i) {
    const Walk& walk = walks_[i];
    logprobs = logprobs || slots_[walk.slot].request->sampling.logprobs >= 0;
    plan::RowResult& answer = result.rows[static_cast<size_t>(walk.batch_row)];
    answer.accepted = static_cast<int32_t>(walk.tokens.size());
    if (walk.verify) answer.drafted = slots_[walk.slot].tree.nodes.back().depth;
    answer.healthy = walk.healthy;
    answer.token_begin = static_cast<int32_t>(result.tokens.size());
    result.tokens.insert(result.tokens.end(), walk.tokens.begin(), walk.tokens.end());
  }
  for (size_t i = 0; i < walking_ && logprobs; ++i) {
    for (plan::TokenLogprob& logprob : walks_[i].logprobs)
      result.logprobs.push_back(std::move(logprob));
  }
}

// Some rows of `matrix`; all of it, usually, and then no copy is made.
Tensor NextnRunner::rows_of(const Tensor& matrix, const std::vector<int32_t>& rows) {
  const auto n = static_cast<int64_t>(rows.size());
  if (n == matrix.dim(0)) return matrix;
  const Tensor some = workspace_.alloc(matrix.dtype, {n, matrix.dim(1)});
  for (int64_t i = 0; i < n; ++i) {
    const Tensor from = matrix.row(rows[static_cast<size_t>(i)]);
    std::memcpy(some.row(i).data, from.data, static_cast<size_t>(from.bytes()));
  }
  return some;
}

// Tells the draft layer what each row committed.
void NextnRunner::advance_drafts(
    const plan::Batch& batch, const Tensor& tokens, const Tensor& hidden
) {
  const std::span<const StagedRow> rows = staging_.rows();
  advances_.resize(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const StagedRow& staged = rows[i];
    const Walk* walk = walk_of_[i] < 0 ? nullptr : &walks_[static_cast<size_t>(walk_of_[i])];
    const bool verify = walk != nullptr && walk->verify;
    if (verify) settle_path(batch, staged, *walk);
    Advance& advance = advances_[i];
    advance.batch_row = staged.batch_row;
    advance.start = staged.start;
    advance.drawn = walk != nullptr;
    if (walk != nullptr) advance.next = walk->tokens.back();
    advance.tokens.clear();
    advance.hidden.clear();
    const auto count = verify ? static_cast<int32_t>(walk->nodes.size()) : staged.count;
    for (int32_t j = 0; j < count; ++j) {
      const int32_t node = verify ? walk->nodes[static_cast<size_t>(j)] : j;
      advance.tokens.push_back(tokens.as<int32_t>()[staged.token_begin + node]);
      advance.hidden.push_back(staged.logit_begin + node);
    }
  }
  decoder_->extend(exec_, batch, hidden, advances_);
}

// R5: the accepted nodes' keys and values move to the positions that their tokens got.
void NextnRunner::settle_path(const plan::Batch& batch, const StagedRow& staged, const Walk& walk) {
  const int32_t* pages =
      batch.pages.data() + batch.page_begin[static_cast<size_t>(staged.batch_row)];
  const auto place = [&](int32_t offset) {
    const int64_t position = staged.start + offset;
    return layers::KvCache::Place{
        .page = pages[position / cache_.page_size()], .slot = position % cache_.page_size()};
  };
  for (size_t j = 1; j < walk.nodes.size(); ++j) {
    const auto offset = static_cast<int32_t>(j);
    if (walk.nodes[j] == offset) continue;
    cache_.copy_position(place(walk.nodes[j]), place(offset), model_.config().layers);
  }
}

void NextnRunner::pool_embeddings(
    const plan::Batch& batch, const Tensor& hidden, plan::StepResult& result
) {
  for (const StagedRow& staged : staging_.rows()) {
    const plan::Row& row = batch.rows[static_cast<size_t>(staged.batch_row)];
    Slot& slot = slots_[row.slot];
    if (!slot.request->embedding) continue;
    // Every token's state, or that of the prompt's last one.
    const int32_t last = row.emits ? staged.logit_count - 1 : staged.logit_count;
    for (int32_t k = options_.pooling == Pooling::mean ? 0 : last; k < staged.logit_count; ++k)
      add_state(slot.pooled, hidden.row(staged.logit_begin + k));
    if (!row.emits) continue;
    result.embeddings.resize(batch.rows.size());
    const auto at = static_cast<size_t>(staged.batch_row);
    result.rows[at].healthy = unit_vector(slot.pooled, result.embeddings[at]);
  }
}

}  // namespace fathom::runtime
