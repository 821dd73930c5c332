#include "fathom/runtime/prompt_scorer.h"

#include <algorithm>

#include "fathom/ops/sample/token_logprob.h"

namespace fathom::runtime {

void PromptScorer::score(
    Exec& exec,
    DeviceQueue& queue,
    const plan::Batch& batch,
    std::span<const StagedRow> staged,
    SlotTable& slots,
    const Tensor& hidden,
    plan::StepResult& result
) const {
  for (const StagedRow& one : staged) {
    const auto at = static_cast<size_t>(one.batch_row);
    const plan::Row& row = batch.rows[at];
    if (!row.scores) continue;
    Slot& slot = slots[row.slot];
    score_row(exec, queue, one, hidden, slot);
    if (!row.emits) continue;
    result.prompt_logprobs.resize(batch.rows.size());
    result.prompt_logprobs[at] = std::move(slot.prompt_logprobs);
  }
}

void PromptScorer::score_row(
    Exec& exec, DeviceQueue& queue, const StagedRow& staged, const Tensor& hidden, Slot& slot
) const {
  const std::vector<plan::Token>& prompt = slot.request->prompt;
  // Prompt tokens [from, end) follow tokens of this chunk.
  const int64_t from = std::max(staged.start + 1, slot.request->prompt_logprobs_from);
  const int64_t end = std::min<int64_t>(staged.start + staged.count + 1, std::ssize(prompt));
  for (int64_t at = from; at < end; at += most_) {
    const int64_t n = std::min(most_, end - at), first = staged.logit_begin + at - 1 - staged.start;
    Workspace::Mark mark(*exec.workspace);
    const Tensor logits = model_.logits(exec, hidden.slice(0, first, n));
    const Tensor tokens = exec.workspace->alloc(DType::i32, {n});
    const Tensor logprobs = exec.workspace->alloc(DType::f32, {n});
    queue.upload(tokens.data, prompt.data() + at, tokens.bytes());
    ops::token_logprob(exec, {.logits = logits, .token = tokens, .logprob = logprobs});
    slot.prompt_logprobs.resize(slot.prompt_logprobs.size() + static_cast<size_t>(n));
    queue.download(&*(slot.prompt_logprobs.end() - n), logprobs.data, logprobs.bytes());
    queue.wait_all();
  }
}

}  // namespace fathom::runtime
