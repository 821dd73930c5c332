#include "fathom/runtime/slots.h"

#include <cstring>

namespace fathom::runtime {

Result<SlotTable> SlotTable::allocate(
    MemoryLedger& ledger,
    Device device,
    int slots,
    int64_t vocab,
    std::vector<plan::Token> end_tokens
) {
  Result<Buffer> counts = Buffer::allocate(ledger, device, 4 * vocab * slots, Purpose::workspace);
  if (!counts) return counts.error();
  Result<Buffer> seen = Buffer::allocate(ledger, device, vocab * slots, Purpose::workspace);
  if (!seen) return seen.error();
  SlotTable table;
  table.slots_.resize(static_cast<size_t>(slots));
  table.end_tokens_ = std::move(end_tokens);
  table.counts_memory_ = std::move(*counts);
  table.seen_memory_ = std::move(*seen);
  table.counts_ = Tensor::of(table.counts_memory_.data(), DType::i32, device, {slots, vocab});
  table.prompt_seen_ = Tensor::of(table.seen_memory_.data(), DType::u8, device, {slots, vocab});
  return table;
}

void SlotTable::reset(const plan::Batch& batch, const plan::SlotReset& reset) {
  Slot& slot = (*this)[reset.slot];
  slot.request = reset.request;
  slot.next_token = 0;
  slot.position = 0;
  slot.prompt = reset.prompt;
  slot.seed = seed_of_choice(reset.request->sampling.seed, reset.choice);
  slot.pooled.clear();
  const Tensor counts = counts_.row(reset.slot);
  const Tensor seen = prompt_seen_.row(reset.slot);
  if (slot.counts_dirty) {
    std::memset(counts.data, 0, static_cast<size_t>(counts.bytes()));
    std::memset(seen.data, 0, static_cast<size_t>(seen.bytes()));
    slot.counts_dirty = false;
  }
  if (!reset.request->sampling.penalised()) return;
  slot.counts_dirty = true;
  for (int32_t i = 0; i < reset.history_count; ++i) {
    const plan::Token token = batch.history[static_cast<size_t>(reset.history_begin + i)];
    if (i < reset.prompt) {
      seen.as<uint8_t>()[token] = 1;
    } else {
      ++counts.as<int32_t>()[token];
    }
  }
}

uint64_t seed_of_choice(uint64_t seed, int choice) {
  return seed + 0x9e3779b97f4a7c15ull * static_cast<uint64_t>(choice);
}

}  // namespace fathom::runtime
