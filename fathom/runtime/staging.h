// Staging: a plan::Batch written into a step's arrays (step_memory.h), as a BatchView for the
// model. Rows of one token are moved to the front, then come those that verify drafts
// (layers/batch_view.h); StagedRow::batch_row tells where each came from. A step whose graph is
// replayed is padded to the graph's rows: the extra ones are one token each, in the dummy page
// (contracts P1).
#pragma once

#include <span>
#include <vector>

#include "fathom/layers/batch_view.h"
#include "fathom/runtime/runner.h"
#include "fathom/runtime/slots.h"
#include "fathom/runtime/step_memory.h"

namespace fathom::runtime {

// One staged row, in the view's order.
struct StagedRow {
  int32_t batch_row = 0;
  int32_t start = 0;        // exact, also for device rows
  int32_t token_begin = 0;  // into the view's tokens
  int32_t count = 0;
  int32_t logit_begin = 0;  // into the view's logit_rows
  int32_t logit_count = 0;  // 0: nothing wanted; 1: the last token; count: every token
};

class Staging {
 public:
  // Places its arrays in `memory`, which outlives it.
  Staging(StepMemory& memory, StepCapacity capacity);

  // Between memory.begin() and memory.upload(). `all_hidden(row)`: whether every token's hidden
  // state of that row is wanted. Decode rows of several tokens verify the tree in their
  // slot, which may hold fewer. `padded_rows`: rows of the graph to be replayed, 0: none.
  template <class AllHidden>
  const layers::BatchView& stage(
      const plan::Batch& batch, SlotTable& slots, const AllHidden& all_hidden, int padded_rows = 0
  ) {
    begin(batch);
    for (const Kind kind : {Kind::single, Kind::verify, Kind::chunk}) {
      for (size_t i = 0; i < batch.rows.size(); ++i) {
        const plan::Row& row = batch.rows[i];
        if (kind_of(row) == kind) append(batch, i, slots[row.slot], all_hidden(row));
      }
      const auto n = static_cast<int64_t>(rows_.size());
      if (kind == Kind::single) view_.single_rows = n;
      if (kind == Kind::verify) view_.verify_rows = n - view_.single_rows;
    }
    pad(padded_rows);
    return finish();
  }

  std::span<const StagedRow> rows() const { return rows_; }
  // [T] i32, beside the view's tokens: the slot that token t comes from, -1: it is known.
  const Tensor& token_slots() const { return token_slots_view_; }

 private:
  using Array = StepArray<int32_t>;
  enum class Kind : uint8_t { single, verify, chunk };
  static Kind kind_of(const plan::Row& row) {
    return row.count == 1 ? Kind::single : row.chunk ? Kind::chunk : Kind::verify;
  }

  void begin(const plan::Batch& batch);
  void append(const plan::Batch& batch, size_t i, const Slot& slot, bool all_hidden);
  void pad(int rows);
  const layers::BatchView& finish();
  Tensor view_of(const Array& array) const;

  StepMemory& memory_;
  StepCapacity capacity_;
  Array row_begin_, kv_len_, page_begin_, tokens_, token_slots_, positions_, logit_rows_, pages_;
  StepArray<int64_t> tree_mask_;
  bool trees_ = false;              // some row's drafts are not a chain
  std::vector<size_t> host_begin_;  // batch row -> its first token in batch.tokens
  std::vector<StagedRow> rows_;
  layers::BatchView view_;
  Tensor token_slots_view_;
};

}  // namespace fathom::runtime
