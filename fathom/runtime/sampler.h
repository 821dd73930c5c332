// Sampler: gathers how each row of logits is to be drawn from the rows' slots, runs ops/sample, and
// leaves the tokens in the slots, where the next step finds them.
#pragma once

#include <span>
#include <vector>

#include "fathom/core/exec.h"
#include "fathom/ops/sample/sample.h"
#include "fathom/plan/step_result.h"
#include "fathom/runtime/slots.h"

namespace fathom::runtime {

// One row of logits: whose it is, and the position of the token to draw.
struct SampleRow {
  int32_t slot = -1;
  int32_t position = 0;
};

class Sampler {
 public:
  // At most `rows` rows a call.
  explicit Sampler(int rows);

  // logits f32 [rows, V]. The answers are read by token(i), healthy(i) and logprob(i), until the
  // next call.
  void run(Exec& exec, const Tensor& logits, std::span<const SampleRow> rows, SlotTable& slots);

  plan::Token token(size_t i) const { return token_[i]; }
  bool healthy(size_t i) const { return healthy_[i] != 0; }
  bool has_logprobs() const { return wants_logprobs_; }
  // Of row i, with as many likeliest tokens as its request asked for.
  plan::TokenLogprob logprob(size_t i) const;

 private:
  void clear();
  void gather(const SampleRow& row, SlotTable& slots);
  void gather_biases(const SampleRow& row, SlotTable& slots);
  ops::Sample arguments(Exec& exec, const Tensor& logits, SlotTable& slots);

  std::vector<float> temperature_, top_p_, min_p_, repetition_, presence_, frequency_;
  std::vector<int32_t> top_k_, position_, slot_;
  std::vector<int64_t> seed_;
  std::vector<int32_t> bias_begin_, bias_token_;
  std::vector<float> bias_value_;
  std::vector<int32_t> wanted_;  // logprobs asked by each row, -1 none
  std::vector<plan::Token> token_;
  std::vector<uint8_t> healthy_;
  std::vector<float> logprob_;
  Tensor top_token_, top_logprob_;
  bool any_penalty_ = false, any_random_ = false, wants_logprobs_ = false;
  int32_t most_logprobs_ = 0;
};

}  // namespace fathom::runtime
