// PromptScorer: log probabilities of a prompt's own tokens, gathered chunk by chunk. The logits of
// a chunk's tokens are made in parts, so that they take no more room than those of a decode step.
#pragma once

#include <span>

#include "fathom/models/model.h"
#include "fathom/plan/step_result.h"
#include "fathom/runtime/slots.h"
#include "fathom/runtime/staging.h"

namespace fathom::runtime {

class PromptScorer {
 public:
  // `model` outlives the scorer; at most `rows` rows of logits at once.
  PromptScorer(const models::Model& model, int rows) : model_(model), most_(rows) {}

  // For rows of the batch that score: what their tokens say of the prompt's next ones joins their
  // slot's list, and with the last chunk that list becomes the row's of `result`. `hidden` [n, C]:
  // the states of the view's logit rows. Waits for the device.
  void score(
      Exec& exec,
      DeviceQueue& queue,
      const plan::Batch& batch,
      std::span<const StagedRow> staged,
      SlotTable& slots,
      const Tensor& hidden,
      plan::StepResult& result
  ) const;

 private:
  void score_row(
      Exec& exec, DeviceQueue& queue, const StagedRow& staged, const Tensor& hidden, Slot& slot
  ) const;

  const models::Model& model_;
  int64_t most_;
};

}  // namespace fathom::runtime
