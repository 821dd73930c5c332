#include "fathom/runtime/slots.h"

namespace fathom::runtime {

Result<SlotTable> SlotTable::allocate(
    MemoryLedger& ledger,
    Device device,
    int slots,
    int64_t vocab,
    std::vector<plan::Token> end_tokens
) {
  Result<Buffer> tokens = Buffer::allocate(ledger, device, int64_t{4} * slots, Purpose::workspace);
  if (!tokens) return tokens.error();
  Result<Buffer> counts = Buffer::allocate(ledger, device, 4 * vocab * slots, Purpose::workspace);
  if (!counts) return counts.error();
  Result<Buffer> seen = Buffer::allocate(ledger, device, vocab * slots, Purpose::workspace);
  if (!seen) return seen.error();
  SlotTable table;
  table.slots_.resize(static_cast<size_t>(slots));
  table.end_tokens_ = std::move(end_tokens);
  table.known_counts_.reserve(static_cast<size_t>(vocab));
  table.known_prompt_.reserve(static_cast<size_t>(vocab));
  table.token_memory_ = std::move(*tokens);
  table.next_token_ = Tensor::of(table.token_memory_.data(), DType::i32, device, {slots});
  table.counts_memory_ = std::move(*counts);
  table.seen_memory_ = std::move(*seen);
  table.counts_ = Tensor::of(table.counts_memory_.data(), DType::i32, device, {slots, vocab});
  table.prompt_seen_ = Tensor::of(table.seen_memory_.data(), DType::u8, device, {slots, vocab});
  return table;
}

void SlotTable::reset(DeviceQueue& queue, const plan::Batch& batch, const plan::SlotReset& reset) {
  Slot& slot = (*this)[reset.slot];
  slot.request = reset.request;
  slot.position = 0;
  slot.prompt = reset.prompt;
  slot.seed = seed_of_choice(reset.request->sampling.seed, reset.choice);
  slot.pooled.clear();
  slot.prompt_logprobs.clear();
  const Tensor counts = counts_.row(reset.slot);
  const Tensor seen = prompt_seen_.row(reset.slot);
  if (!reset.request->sampling.penalised()) {
    if (slot.counts_dirty) {
      queue.clear(counts.data, counts.bytes());
      queue.clear(seen.data, seen.bytes());
    }
    slot.counts_dirty = false;
    return;
  }
  slot.counts_dirty = true;
  known_counts_.assign(static_cast<size_t>(counts.dim(0)), 0);
  known_prompt_.assign(known_counts_.size(), 0);
  for (int32_t i = 0; i < reset.history_count; ++i) {
    const auto token =
        static_cast<size_t>(batch.history[static_cast<size_t>(reset.history_begin + i)]);
    if (i < reset.prompt) {
      known_prompt_.at(token) = 1;
    } else {
      ++known_counts_.at(token);
    }
  }
  queue.upload(counts.data, known_counts_.data(), counts.bytes());
  queue.upload(seen.data, known_prompt_.data(), seen.bytes());
}

uint64_t seed_of_choice(uint64_t seed, int choice) {
  return seed + 0x9e3779b97f4a7c15ull * static_cast<uint64_t>(choice);
}

}  // namespace fathom::runtime
