// NextnRunner: a Runner whose decode rows verify drafted tokens (nextn_decoder.h). A row's tokens
// are drawn one after the other on its way down the tree, by the same sampler and with the same
// random numbers as in steps of their own. Host memory only.
#pragma once

#include <memory>
#include <vector>

#include "fathom/runtime/model_runner.h"
#include "fathom/runtime/nextn_decoder.h"

namespace fathom::runtime {

class NextnRunner final : public Runner {
 public:
  // `model`, which has an MTP layer, `cache`, `queue` and what `exec` points to (but its workspace,
  // which the runner owns) outlive the runner.
  static Result<std::unique_ptr<NextnRunner>> make(
      const models::Model& model,
      layers::KvCache& cache,
      const Exec& exec,
      DeviceQueue& queue,
      MemoryLedger& ledger,
      const StepCapacity& capacity,
      RunnerOptions options,
      const Speculation& speculation
  );

  plan::Lookahead lookahead() const override { return decoder_->speculation().lookahead(); }
  void run(const plan::Batch& batch, plan::StepResult& result) override;

 private:
  // A row whose tokens are drawn in this step: one, or more on a way down its tree.
  struct Walk {
    int32_t batch_row = 0;
    int32_t slot = 0;
    int32_t position = 0;  // of the token drawn first
    int32_t logits = 0;    // row of the first node's logits
    bool verify = false;
    bool healthy = true;
    std::vector<plan::Token> tokens;
    std::vector<int32_t> nodes;  // where each token was drawn
    std::vector<plan::TokenLogprob> logprobs;
  };

  NextnRunner(
      const models::Model& model,
      layers::KvCache& cache,
      const Exec& exec,
      DeviceQueue& queue,
      const StepCapacity& capacity,
      RunnerOptions options,
      const Speculation& speculation
  );
  Result<void> allocate(
      MemoryLedger& ledger, const StepCapacity& capacity, const Speculation& speculation
  );

  Walk& next_walk();
  void start_walks(const plan::Batch& batch, plan::StepResult& result);
  void draw_tokens(const Tensor& hidden);
  void add_sample_row(const Walk& walk);
  bool walk_on(Walk& walk, size_t drawn);
  void report_walks(plan::StepResult& result);
  Tensor rows_of(const Tensor& matrix, const std::vector<int32_t>& rows);
  void advance_drafts(const plan::Batch& batch, const Tensor& tokens, const Tensor& hidden);
  void settle_path(const plan::Batch& batch, const StagedRow& staged, const Walk& walk);
  void pool_embeddings(const plan::Batch& batch, const Tensor& hidden, plan::StepResult& result);

  const models::Model& model_;
  layers::KvCache& cache_;
  Exec exec_;
  DeviceQueue& queue_;
  RunnerOptions options_;
  PromptScorer scorer_;
  Workspace workspace_;
  StepMemory inputs_, draws_;  // of a step; of one round of draws
  Staging staging_;
  SlotTable slots_;
  Sampler sampler_;
  std::unique_ptr<NextnDecoder> decoder_;
  // This step's walks are the first `walking_` of walks_; walk_of_ finds them by staged row.
  std::vector<Walk> walks_;
  size_t walking_ = 0;
  std::vector<int32_t> walk_of_;
  std::vector<int32_t> wanted_rows_;  // of the hidden states, whose logits are drawn from
  std::vector<size_t> active_;        // walks that draw another token
  std::vector<int32_t> active_logits_;
  std::vector<SampleRow> sample_rows_;
  std::vector<plan::Token> children_;  // drafted tokens that may be taken below the thresholds
  std::vector<Advance> advances_;
};

}  // namespace fathom::runtime
