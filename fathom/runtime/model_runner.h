// ModelRunner: stages a Batch, runs the model, draws the tokens. One replica on one device, plain
// decoding.
#pragma once

#include <memory>
#include <vector>

#include "fathom/layers/kv_cache.h"
#include "fathom/models/model.h"
#include "fathom/runtime/runner.h"
#include "fathom/runtime/sampler.h"
#include "fathom/runtime/staging.h"

namespace fathom::runtime {

// How an embedding request's hidden states become one vector.
enum class Pooling : uint8_t { last, mean };

class ModelRunner final : public Runner {
 public:
  // `model`, `cache` and what `exec` points to (but its workspace, which the runner owns) outlive
  // the runner.
  static Result<std::unique_ptr<ModelRunner>> make(
      const models::Model& model,
      layers::KvCache& cache,
      const Exec& exec,
      MemoryLedger& ledger,
      StepCapacity capacity,
      std::vector<plan::Token> end_tokens,
      Pooling pooling
  );

  plan::Lookahead lookahead() const override { return {}; }
  void run(const plan::Batch& batch, plan::StepResult& result) override;

 private:
  ModelRunner(const models::Model& model, layers::KvCache& cache, const Exec& exec, int rows);

  void draw_tokens(const Tensor& hidden, plan::StepResult& result);
  Tensor sampled_hidden(const Tensor& hidden);
  void pool_embeddings(const plan::Batch& batch, const Tensor& hidden, plan::StepResult& result);

  const models::Model& model_;
  layers::KvCache& cache_;
  Exec exec_;
  Workspace workspace_;
  Staging staging_;
  SlotTable slots_;
  Sampler sampler_;
  Pooling pooling_ = Pooling::last;
  // The rows whose token is drawn in this step, in the view's order.
  std::vector<SampleRow> sample_rows_;
  std::vector<int32_t> sample_batch_rows_;
  std::vector<int32_t> sample_hidden_rows_;
};

}  // namespace fathom::runtime
