// Sampler: gathers how each row of logits is to be drawn from the rows' slots, runs ops/sample, and
// leaves the tokens in the slots, where the next step finds them without the host.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "fathom/core/exec.h"
#include "fathom/ops/sample/sample.h"
#include "fathom/plan/step_result.h"
#include "fathom/runtime/slots.h"
#include "fathom/runtime/step_memory.h"

namespace fathom::runtime {

// One row of logits: whose it is, and the position of the token to draw.
struct SampleRow {
  int32_t slot = -1;
  int32_t position = 0;
  std::span<const plan::Token> drafts = {};  // drafted tokens, with thresholds below 1
};

// ops::Sample's, of drafted tokens.
struct DraftThresholds {
  float single = 1.0f;
  float acc = 1.0f;
};

// What a draw launches: of greedy rows and of random ones always the same, so that a graph can hold
// it; of penalised, biased, drafted rows and those with log probabilities what they ask for.
enum class DrawKind : uint8_t { greedy, random, special };

class Sampler {
 public:
  // At most `rows` rows a step, with `drafts` drafted tokens. Places its arrays in `inputs`, which
  // outlives it.
  Sampler(StepMemory& inputs, int rows, int slots, int drafts = 0, DraftThresholds thresholds = {});
  Result<void> allocate(MemoryLedger& ledger, Device device);

  // Between inputs.begin() and inputs.upload(): how the step's rows are drawn. Unless the draw is
  // special, as many follow as make `padded_rows`: nobody reads what they draw.
  void gather(std::span<const SampleRow> rows, SlotTable& slots, int turn, int64_t padded_rows = 0);
  DrawKind kind() const;
  // Of what a special draw needs besides.
  void upload(DeviceQueue& queue);
  // The first rows of logits, f32 [., V], as many as were gathered. Launches kernels only.
  void draw(Exec& exec, const Tensor& logits, SlotTable& slots) const;
  // The answers are on their way to the host.
  void download(DeviceQueue& queue);

  // The answers of the step that was gathered with `turn`, once the queue has done it.
  plan::Token token(int turn, size_t i) const;
  bool healthy(int turn, size_t i) const;
  bool has_logprobs(int turn) const { return wishes_[static_cast<size_t>(turn)].logprobs; }
  // Of row i, with as many likeliest tokens as its request asked for.
  plan::TokenLogprob logprob(int turn, size_t i) const;

 private:
  // What the rows of a step want to know.
  struct Wishes {
    std::vector<int32_t> likeliest;  // of each row, -1 none
    int32_t most = 0;
    bool logprobs = false;
  };
  void clear(SlotTable& slots, int turn);
  void gather_row(const SampleRow& row, SlotTable& slots);
  void push_row(const plan::SamplingParams& p, int32_t position, int32_t slot, uint64_t seed);
  void gather_biases(const SampleRow& row, SlotTable& slots);
  ops::Sample arguments(const Tensor& logits, SlotTable& slots) const;

  StepMemory& inputs_;
  StepMemory biases_, outputs_;
  StepArray<float> temperature_, top_p_, min_p_, repetition_, presence_, frequency_;
  StepArray<int32_t> top_k_, position_, slot_, row_of_slot_;
  StepArray<int64_t> seed_;
  StepArray<int32_t> bias_begin_, bias_token_;
  StepArray<float> bias_value_;
  StepArray<int32_t> draft_begin_, draft_token_;
  DraftThresholds thresholds_;
  StepArray<int32_t> token_, top_token_;
  StepArray<float> logprob_, top_logprob_;
  StepArray<uint8_t> healthy_;
  std::array<Wishes, 2> wishes_;
  std::vector<int32_t> slot_rows_;
  int turn_ = 0;
  int64_t rows_ = 0;
  bool any_penalty_ = false, any_random_ = false;
};

}  // namespace fathom::runtime
