#include "fathom/runtime/sampler.h"

#include <algorithm>
#include <limits>

#include "fathom/ops/sample/token_select.h"

namespace fathom::runtime {
namespace {

constexpr int64_t kMostLikeliest = plan::TopLogprobs::kMost;
// Biased tokens of a row, on average: a client may list hundreds, and stop ids count.
constexpr int64_t kBiasesOfRow = 512;

}  // namespace

Sampler::Sampler(StepMemory& inputs, int rows, int slots, int drafts, DraftThresholds thresholds)
    : inputs_(inputs), thresholds_(thresholds) {
  seed_ = inputs.place<int64_t>(rows);
  for (auto* array : {&temperature_, &top_p_, &min_p_, &repetition_, &presence_, &frequency_}) {
    *array = inputs.place<float>(rows);
  }
  for (auto* array : {&top_k_, &position_, &slot_}) *array = inputs.place<int32_t>(rows);
  row_of_slot_ = inputs.place<int32_t>(slots);
  draft_begin_ = inputs.place<int32_t>(drafts > 0 ? rows + 1 : 0);
  draft_token_ = inputs.place<int32_t>(drafts);
  bias_begin_ = biases_.place<int32_t>(rows + 1);
  bias_token_ = biases_.place<int32_t>(std::max(int64_t{8192}, kBiasesOfRow * rows));
  bias_value_ = biases_.place<float>(bias_token_.capacity());
  token_ = outputs_.place<int32_t>(rows);
  for (Wishes& wishes : wishes_) wishes.likeliest.reserve(static_cast<size_t>(rows));
  slot_rows_.reserve(static_cast<size_t>(slots));
  healthy_ = outputs_.place<uint8_t>(rows);
  logprob_ = outputs_.place<float>(rows);
  top_token_ = outputs_.place<int32_t>(kMostLikeliest * rows);
  top_logprob_ = outputs_.place<float>(kMostLikeliest * rows);
}

Result<void> Sampler::allocate(MemoryLedger& ledger, Device device) {
  if (Result<void> made = biases_.allocate(ledger, device); !made) return made;
  return outputs_.allocate(ledger, device);
}

void Sampler::clear(SlotTable& slots, int turn) {
  turn_ = turn;
  biases_.begin(turn);
  outputs_.begin(turn);
  for (auto* array : {&temperature_, &top_p_, &min_p_, &repetition_, &presence_, &frequency_}) {
    inputs_.clear(*array);
  }
  for (auto* array : {&top_k_, &position_, &slot_, &row_of_slot_}) inputs_.clear(*array);
  inputs_.clear(seed_);
  for (auto* array : {&bias_begin_, &bias_token_}) biases_.clear(*array);
  biases_.clear(bias_value_);
  biases_.push(bias_begin_, 0);
  for (auto* array : {&draft_begin_, &draft_token_}) inputs_.clear(*array);
  if (draft_begin_.capacity() > 0) inputs_.push(draft_begin_, 0);
  Wishes& wishes = wishes_[static_cast<size_t>(turn)];
  wishes.likeliest.clear();
  wishes.most = 0;
  wishes.logprobs = any_penalty_ = any_random_ = false;
  slot_rows_.assign(static_cast<size_t>(slots.size()), -1);
}

void Sampler::gather(
    std::span<const SampleRow> rows, SlotTable& slots, int turn, int64_t padded_rows
) {
  clear(slots, turn);
  rows_ = static_cast<int64_t>(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    gather_row(rows[i], slots);
    slot_rows_.at(static_cast<size_t>(rows[i].slot)) = static_cast<int32_t>(i);
  }
  for (const int32_t row : slot_rows_) inputs_.push(row_of_slot_, row);
  if (kind() == DrawKind::special) return;
  const plan::SamplingParams greedy{.temperature = 0.0f};
  for (; rows_ < padded_rows; ++rows_) push_row(greedy, 0, -1, 0);
}

DrawKind Sampler::kind() const {
  const bool plain = !any_penalty_ && bias_token_.size() == 0 && draft_token_.size() == 0 &&
                     !wishes_[static_cast<size_t>(turn_)].logprobs;
  if (!plain) return DrawKind::special;
  return any_random_ ? DrawKind::random : DrawKind::greedy;
}

void Sampler::push_row(
    const plan::SamplingParams& p, int32_t position, int32_t slot, uint64_t seed
) {
  inputs_.push(temperature_, p.temperature);
  inputs_.push(top_p_, p.top_p);
  inputs_.push(min_p_, p.min_p);
  inputs_.push(top_k_, p.top_k);
  inputs_.push(repetition_, p.repetition_penalty);
  inputs_.push(presence_, p.presence_penalty);
  inputs_.push(frequency_, p.frequency_penalty);
  inputs_.push(position_, position);
  inputs_.push(slot_, slot);
  inputs_.push(seed_, static_cast<int64_t>(seed));
}

void Sampler::gather_row(const SampleRow& row, SlotTable& slots) {
  const Slot& slot = slots[row.slot];
  const plan::SamplingParams& p = slot.request->sampling;
  push_row(p, row.position, row.slot, slot.seed);
  gather_biases(row, slots);
  for (const plan::Token token : row.drafts) inputs_.push(draft_token_, token);
  if (draft_begin_.capacity() > 0) inputs_.push(draft_begin_, draft_token_.size());
  any_penalty_ = any_penalty_ || p.penalised();
  any_random_ = any_random_ || p.temperature != 0.0f;
  Wishes& wishes = wishes_[static_cast<size_t>(turn_)];
  const int32_t likeliest = std::min(p.logprobs, static_cast<int32_t>(kMostLikeliest));
  wishes.likeliest.push_back(likeliest);
  wishes.logprobs = wishes.logprobs || likeliest >= 0;
  wishes.most = std::max(wishes.most, likeliest);
}

void Sampler::gather_biases(const SampleRow& row, SlotTable& slots) {
  const Slot& slot = slots[row.slot];
  const plan::SamplingParams& p = slot.request->sampling;
  const auto bias = [&](plan::Token token, float value) {
    biases_.push(bias_token_, token);
    biases_.push(bias_value_, value);
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
  biases_.push(bias_begin_, bias_token_.size());
}

ops::Sample Sampler::arguments(const Tensor& logits, SlotTable& slots) const {
  const auto in = [&](const auto& array, DType dtype) {
    return inputs_.device(array, dtype, rows_);
  };
  const bool biased = bias_token_.size() > 0;
  ops::Sample args{
      .logits = logits,
      .temperature = in(temperature_, DType::f32),
      .top_p = in(top_p_, DType::f32),
      .min_p = in(min_p_, DType::f32),
      .top_k = in(top_k_, DType::i32),
      .seed = in(seed_, DType::i64),
      .position = in(position_, DType::i32),
      .all_greedy = !any_random_ && !any_penalty_ && !biased,
      .token = outputs_.device(token_, DType::i32, rows_),
      .healthy = outputs_.device(healthy_, DType::u8, rows_),
  };
  if (any_penalty_) {
    args.repetition = in(repetition_, DType::f32);
    args.presence = in(presence_, DType::f32);
    args.frequency = in(frequency_, DType::f32);
    args.slot = in(slot_, DType::i32);
    args.counts = slots.counts();
    args.prompt_seen = slots.prompt_seen();
  }
  if (biased) {
    args.bias_begin = biases_.device(bias_begin_, DType::i32, rows_ + 1);
    args.bias_token = biases_.device(bias_token_, DType::i32, bias_token_.size());
    args.bias_value = biases_.device(bias_value_, DType::f32, bias_value_.size());
  }
  if (draft_token_.size() > 0) {
    args.draft_begin = inputs_.device(draft_begin_, DType::i32, rows_ + 1);
    args.draft_token = inputs_.device(draft_token_, DType::i32, draft_token_.size());
    args.threshold_single = thresholds_.single;
    args.threshold_acc = thresholds_.acc;
  }
  const Wishes& wishes = wishes_[static_cast<size_t>(turn_)];
  if (wishes.logprobs) args.logprob = outputs_.device(logprob_, DType::f32, rows_);
  if (wishes.most > 0) {
    const auto likeliest = [&](const auto& array, DType dtype) {
      return outputs_.device(array, dtype, rows_ * wishes.most).reshape({rows_, wishes.most});
    };
    args.top_token = likeliest(top_token_, DType::i32);
    args.top_logprob = likeliest(top_logprob_, DType::f32);
  }
  return args;
}

void Sampler::upload(DeviceQueue& queue) {
  if (bias_token_.size() > 0) biases_.upload(queue);
}

void Sampler::draw(Exec& exec, const Tensor& logits, SlotTable& slots) const {
  const ops::Sample args = arguments(logits.slice(0, 0, rows_), slots);
  ops::sample(exec, args);
  const Tensor row_of_slot = inputs_.device(row_of_slot_, DType::i32, slots.size());
  ops::token_select(exec, {.source = args.token, .index = row_of_slot, .y = slots.next_token()});
}

void Sampler::download(DeviceQueue& queue) {
  const Wishes& wishes = wishes_[static_cast<size_t>(turn_)];
  if (wishes.most > 0) {
    outputs_.download(queue, top_logprob_, rows_ * wishes.most);
  } else if (wishes.logprobs) {
    outputs_.download(queue, logprob_, rows_);
  } else {
    outputs_.download(queue, healthy_, rows_);
  }
}

plan::Token Sampler::token(int turn, size_t i) const {
  return outputs_.host(token_, turn)[i];
}

bool Sampler::healthy(int turn, size_t i) const {
  return outputs_.host(healthy_, turn)[i] != 0;
}

plan::TokenLogprob Sampler::logprob(int turn, size_t i) const {
  const Wishes& wishes = wishes_[static_cast<size_t>(turn)];
  plan::TokenLogprob found{
      .token = token(turn, i), .logprob = outputs_.host(logprob_, turn)[i], .top = {}};
  const size_t first = i * static_cast<size_t>(wishes.most);
  for (int32_t k = 0; k < wishes.likeliest[i]; ++k) {
    const size_t at = first + static_cast<size_t>(k);
    found.top.push_back(outputs_.host(top_token_, turn)[at], outputs_.host(top_logprob_, turn)[at]);
  }
  return found;
}

}  // namespace fathom::runtime
