// Staging: a plan::Batch written into arrays at fixed addresses, as a BatchView for the model. Rows
// of one token are moved to the front (layers/batch_view.h); StagedRow::batch_row tells where each
// came from.
#pragma once

#include <span>
#include <vector>

#include "fathom/core/buffer.h"
#include "fathom/layers/batch_view.h"
#include "fathom/runtime/runner.h"
#include "fathom/runtime/slots.h"

namespace fathom::runtime {

// One staged row, in the view's order.
struct StagedRow {
  int32_t batch_row = 0;
  int32_t start = 0;        // exact, also for device rows
  int32_t token_begin = 0;  // into the view's tokens
  int32_t count = 0;
  int32_t logit_begin = 0;  // into the view's logit_rows
  int32_t logit_count =
      0;  // 0: nothing wanted; 1: the last token; count: every token (pooling by mean)
};

class Staging {
 public:
  static Result<Staging> allocate(MemoryLedger& ledger, Device device, StepCapacity capacity);

  Staging() = default;

  // `all_hidden(slot)`: whether every token's hidden state of that slot's rows is wanted.
  template <class AllHidden>
  const layers::BatchView& stage(
      const plan::Batch& batch, SlotTable& slots, const AllHidden& all_hidden
  ) {
    begin(batch);
    for (const bool single : {true, false}) {
      for (size_t i = 0; i < batch.rows.size(); ++i) {
        const plan::Row& row = batch.rows[i];
        if ((row.count == 1) == single) append(batch, i, slots[row.slot], all_hidden(row.slot));
      }
      if (single) view_.single_rows = static_cast<int64_t>(rows_.size());
    }
    return finish();
  }

  std::span<const StagedRow> rows() const { return rows_; }

 private:
  // A host array at a fixed address of the one buffer.
  struct Array {
    int32_t* data = nullptr;
    int32_t capacity = 0;
    int32_t size = 0;
    void push(int32_t value);
  };

  void begin(const plan::Batch& batch);
  void append(const plan::Batch& batch, size_t i, const Slot& slot, bool all_hidden);
  const layers::BatchView& finish();
  Tensor view_of(const Array& array) const;

  Device device_ = {};
  Buffer memory_;
  Array tokens_, positions_, row_begin_, kv_len_, page_begin_, pages_, logit_rows_;
  std::vector<size_t> host_begin_;  // batch row -> its first token in batch.tokens
  std::vector<StagedRow> rows_;
  layers::BatchView view_;
};

}  // namespace fathom::runtime
