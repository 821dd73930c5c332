#include "fathom/runtime/sampler.h"

#include <algorithm>
#include <limits>

namespace fathom::runtime {
namespace {

template <class T>
Tensor view(std::vector<T>& values, DType dtype, Device device) {
  return Tensor::of(values.data(), dtype, device, {static_cast<int64_t>(values.size())});
}

}  // namespace

Sampler::Sampler(int rows) {
  const auto n = static_cast<size_t>(rows);
  for (auto* values :
       {&temperature_, &top_p_, &min_p_, &repetition_, &presence_, &frequency_, &logprob_}) {
    values->reserve(n);
  }
  for (auto* values : {&top_k_, &position_, &slot_, &wanted_, &token_}) values->reserve(n);
  seed_.reserve(n);
  healthy_.reserve(n);
  bias_begin_.reserve(n + 1);
  bias_token_.reserve(16 * n);
  bias_value_.reserve(16 * n);
}

void Sampler::clear() {
  for (auto* values :
       {&temperature_, &top_p_, &min_p_, &repetition_, &presence_, &frequency_, &bias_value_}) {
    values->clear();
  }
  for (auto* values : {&top_k_, &position_, &slot_, &wanted_, &bias_token_}) values->clear();
  seed_.clear();
  bias_begin_.assign(1, 0);
  any_penalty_ = any_random_ = wants_logprobs_ = false;
  most_logprobs_ = 0;
}

void Sampler::gather(const SampleRow& row, SlotTable& slots) {
  const Slot& slot = slots[row.slot];
  const plan::SamplingParams& p = slot.request->sampling;
  temperature_.push_back(p.temperature);
  top_p_.push_back(p.top_p);
  min_p_.push_back(p.min_p);
  top_k_.push_back(p.top_k);
  repetition_.push_back(p.repetition_penalty);
  presence_.push_back(p.presence_penalty);
  frequency_.push_back(p.frequency_penalty);
  position_.push_back(row.position);
  slot_.push_back(row.slot);
  seed_.push_back(static_cast<int64_t>(slot.seed));
  wanted_.push_back(p.logprobs);
  gather_biases(row, slots);
  any_penalty_ = any_penalty_ || p.penalised();
  any_random_ = any_random_ || p.temperature != 0.0f;
  wants_logprobs_ = wants_logprobs_ || p.logprobs >= 0;
  most_logprobs_ = std::max(most_logprobs_, p.logprobs);
}

void Sampler::gather_biases(const SampleRow& row, SlotTable& slots) {
  const Slot& slot = slots[row.slot];
  const plan::SamplingParams& p = slot.request->sampling;
  const auto bias = [&](plan::Token token, float value) {
    bias_token_.push_back(token);
    bias_value_.push_back(value);
  };
  for (const auto& [token, value] : p.logit_bias) bias(token, value);
  // Stop ids are banned by position, so that no host round trip is needed (G4).
  if (row.position - slot.prompt < p.min_new_tokens) {
    constexpr float kBanned = -std::numeric_limits<float>::infinity();
    for (const plan::Token token : p.stop_ids) bias(token, kBanned);
    if (!p.ignore_eos) {
      for (const plan::Token token : slots.end_tokens()) bias(token, kBanned);
    }
  }
  bias_begin_.push_back(static_cast<int32_t>(bias_token_.size()));
}

ops::Sample Sampler::arguments(Exec& exec, const Tensor& logits, SlotTable& slots) {
  const Device device = exec.device;
  ops::Sample args{
      .logits = logits,
      .temperature = view(temperature_, DType::f32, device),
      .top_p = view(top_p_, DType::f32, device),
      .min_p = view(min_p_, DType::f32, device),
      .top_k = view(top_k_, DType::i32, device),
      .seed = view(seed_, DType::i64, device),
      .position = view(position_, DType::i32, device),
      .all_greedy = !any_random_ && !any_penalty_ && bias_token_.empty(),
      .token = view(token_, DType::i32, device),
      .healthy = view(healthy_, DType::u8, device),
  };
  if (any_penalty_) {
    args.repetition = view(repetition_, DType::f32, device);
    args.presence = view(presence_, DType::f32, device);
    args.frequency = view(frequency_, DType::f32, device);
    args.slot = view(slot_, DType::i32, device);
    args.counts = slots.counts();
    args.prompt_seen = slots.prompt_seen();
  }
  if (!bias_token_.empty()) {
    args.bias_begin = view(bias_begin_, DType::i32, device);
    args.bias_token = view(bias_token_, DType::i32, device);
    args.bias_value = view(bias_value_, DType::f32, device);
  }
  if (wants_logprobs_) args.logprob = view(logprob_, DType::f32, device);
  if (most_logprobs_ > 0) {
    const int64_t rows = logits.dim(0);
    args.top_token = exec.workspace->alloc(DType::i32, {rows, most_logprobs_});
    args.top_logprob = exec.workspace->alloc(DType::f32, {rows, most_logprobs_});
  }
  top_token_ = args.top_token;
  top_logprob_ = args.top_logprob;
  return args;
}

void Sampler::run(
    Exec& exec, const Tensor& logits, std::span<const SampleRow> rows, SlotTable& slots
) {
  clear();
  for (const SampleRow& row : rows) gather(row, slots);
  token_.assign(rows.size(), 0);
  healthy_.assign(rows.size(), 1);
  logprob_.assign(rows.size(), 0.0f);
  ops::sample(exec, arguments(exec, logits, slots));
  for (size_t i = 0; i < rows.size(); ++i) {
    Slot& slot = slots[rows[i].slot];
    slot.next_token = token_[i];
    slot.position = rows[i].position;
  }
}

plan::TokenLogprob Sampler::logprob(size_t i) const {
  plan::TokenLogprob found{.token = token_[i], .logprob = logprob_[i], .top = {}};
  for (int32_t k = 0; k < wanted_[i]; ++k) {
    const auto row = static_cast<int64_t>(i);
    found.top.emplace_back(
        top_token_.row(row).as<int32_t>()[k], top_logprob_.row(row).as<float>()[k]
    );
  }
  return found;
}

}  // namespace fathom::runtime
