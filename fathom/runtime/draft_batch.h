// DraftBatch: tokens for the draft layer, laid out as a BatchView on host arrays that are reused.
// The draft row of token p stands at position p and turns with p - 1 (contracts D5); position 0
// holds none.
#pragma once

#include <span>
#include <vector>

#include "fathom/layers/batch_view.h"
#include "fathom/plan/batch.h"

namespace fathom::runtime {

class DraftBatch {
 public:
  DraftBatch(int tokens, int rows, int pages, int32_t last_position);

  void begin();
  // The next token of the row at work, which stands at `position`; `mask` as layers::BatchView
  // wants it.
  void add(plan::Token token, int32_t position, int64_t mask = 0);
  // Ends the row: `kv_len` positions are readable; its table.
  void end_row(int32_t kv_len, std::span<const plan::PageId> pages);
  // The hidden state of the token added last is wanted.
  void want() { logit_rows_.push_back(static_cast<int32_t>(tokens_.size()) - 1); }

  int64_t tokens() const { return static_cast<int64_t>(tokens_.size()); }
  // Rows are drafted trees, `lead` branches of which stand in front of them.
  layers::BatchView tree(int64_t lead);
  layers::BatchView chain();
  // The wanted tokens alone, each the last one of its row; logit_rows as in chain().
  layers::BatchView wanted();

 private:
  struct Wanted {
    std::vector<int32_t> tokens, positions, row_begin, kv_len, page_begin, pages;
  };
  int32_t last_position_;  // that can be turned; what lies behind is never kept
  int64_t max_count_ = 0, max_kv_len_ = 0;
  std::vector<int32_t> tokens_, positions_, row_begin_, kv_len_, page_begin_, pages_, logit_rows_;
  std::vector<int64_t> mask_;
  Wanted wanted_;
};

}  // namespace fathom::runtime
