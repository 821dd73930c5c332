// ModelRunner: stages a Batch, runs the model, draws the tokens. One replica on one device, plain
// decoding. The device's queue is given a step whole: its inputs as one copy, the model (a decode
// step and its draw as one replayed graph where the device has graphs), the answers' copy back; the
// host waits for none of it before finish().
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "fathom/layers/kv_cache.h"
#include "fathom/models/model.h"
#include "fathom/runtime/decode_graphs.h"
#include "fathom/runtime/pooling.h"
#include "fathom/runtime/prompt_scorer.h"
#include "fathom/runtime/runner.h"
#include "fathom/runtime/sampler.h"
#include "fathom/runtime/staging.h"

namespace fathom::runtime {

struct RunnerOptions {
  std::vector<plan::Token> end_tokens;
  Pooling pooling = Pooling::last;
  bool graphs = false;  // feature cuda_graph
};

class ModelRunner final : public Runner {
 public:
  // `model`, `cache`, `queue` and what `exec` points to (but its workspace, which the runner owns)
  // outlive the runner.
  static Result<std::unique_ptr<ModelRunner>> make(
      const models::Model& model,
      layers::KvCache& cache,
      const Exec& exec,
      DeviceQueue& queue,
      MemoryLedger& ledger,
      StepCapacity capacity,
      RunnerOptions options
  );

  plan::Lookahead lookahead() const override { return {}; }
  void run(const plan::Batch& batch, plan::StepResult& result) override;

  int ahead() const override { return exec_.device.is_cpu() ? 0 : 1; }
  void start(const plan::Batch& batch) override;
  bool ready() const override { return queue_.reached(turn_of(finished_)); }
  void finish(plan::StepResult& result) override;

  RunnerCounters counters() const override { return graphs_.counters(); }

 private:
  // What finish() must know of a step.
  struct Started {
    plan::StepResult head;  // id, incarnation, the rows' starts, embeddings, prompt's logprobs
    std::vector<int32_t> sampled;  // batch rows whose token is drawn, in the order of the answers
  };

  ModelRunner(
      const models::Model& model,
      layers::KvCache& cache,
      const Exec& exec,
      DeviceQueue& queue,
      StepCapacity capacity,
      RunnerOptions options
  );

  static int turn_of(int64_t step) { return static_cast<int>(step % 2); }
  bool wants_all_hidden(const plan::Row& row);
  bool replayable(const plan::Batch& batch);
  void replay(int rows);
  void launch(const plan::Batch& batch, Started& step);
  void stage(const plan::Batch& batch, Started& step, int padded_rows);
  Tensor forward();
  Tensor sampled_hidden(const Tensor& hidden);
  void pool_embeddings(const plan::Batch& batch, const Tensor& hidden, Started& step);
  void pool(const plan::Row& row, const StagedRow& staged, const Tensor& hidden, Started& step);

  const models::Model& model_;
  layers::KvCache& cache_;
  Exec exec_;
  DeviceQueue& queue_;
  RunnerOptions options_;
  PromptScorer scorer_;
  Workspace workspace_;
  StepMemory inputs_;
  SlotTable slots_;
  Sampler sampler_;
  StepArray<int32_t> hidden_rows_;  // of the sampled rows
  Staging staging_;                 // last of those in inputs_: its page tables end the copy
  DecodeGraphs graphs_;
  const layers::BatchView* view_ = nullptr;
  std::vector<SampleRow> sample_rows_;
  std::array<Started, 2> steps_;
  int64_t started_ = 0, finished_ = 0;
};

}  // namespace fathom::runtime
