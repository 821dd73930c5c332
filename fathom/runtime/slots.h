// SlotTable: the device side of each running sequence (contracts D1): its next input token, which
// never leaves the device between two steps, its position, and how its tokens are drawn. Only rows
// of the slot's sequence touch it, in step order.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "fathom/core/buffer.h"
#include "fathom/core/device_queue.h"
#include "fathom/core/tensor.h"
#include "fathom/plan/batch.h"
#include "fathom/runtime/draft_tree.h"

namespace fathom::runtime {

struct Slot {
  std::shared_ptr<const plan::Request> request;
  int32_t position = 0;  // where the next decode row starts
  int32_t prompt = 0;
  uint64_t seed = 0;  // the request's, with the choice mixed in (D6)
  bool counts_dirty = false;
  DraftTree tree;              // what the next decode row verifies, where the decoder drafts
  std::vector<double> pooled;  // embedding requests: running sum of hidden states
  std::vector<float> prompt_logprobs;  // as far as the prompt has been read
};

class SlotTable {
 public:
  // counts and prompt_seen take slots * vocab elements of address space; pages are resident only
  // once a penalised request uses them. `end_tokens`: the model's own, banned like stop ids before
  // min_new_tokens.
  static Result<SlotTable> allocate(
      MemoryLedger& ledger,
      Device device,
      int slots,
      int64_t vocab,
      std::vector<plan::Token> end_tokens
  );

  SlotTable() = default;

  Slot& operator[](int32_t slot) { return slots_.at(static_cast<size_t>(slot)); }

  // A new owner: forgets the old one, rebuilds penalty counts from the known tokens (D2, G1).
  void reset(DeviceQueue& queue, const plan::Batch& batch, const plan::SlotReset& reset);

  int size() const { return static_cast<int>(slots_.size()); }
  Tensor next_token() const { return next_token_; }    // i32 [slots]: input of the next decode row
  Tensor counts() const { return counts_; }            // i32 [slots, V]
  Tensor prompt_seen() const { return prompt_seen_; }  // u8 [slots, V]
  std::span<const plan::Token> end_tokens() const { return end_tokens_; }

 private:
  std::vector<Slot> slots_;
  std::vector<plan::Token> end_tokens_;
  Buffer token_memory_, counts_memory_, seen_memory_;
  Tensor next_token_, counts_, prompt_seen_;
  std::vector<int32_t> known_counts_;  // reset()'s scratch, [vocab]
  std::vector<uint8_t> known_prompt_;
};

// The seed of choice `choice` of a request: choice 0 keeps the client's own.
uint64_t seed_of_choice(uint64_t seed, int choice);

}  // namespace fathom::runtime
