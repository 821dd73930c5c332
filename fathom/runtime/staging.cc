#include "fathom/runtime/staging.h"

#include <algorithm>

namespace fathom::runtime {

// The page tables come last: their capacity is that of the longest sequences, their content short.
Staging::Staging(StepMemory& memory, StepCapacity capacity) : memory_(memory), capacity_(capacity) {
  const int64_t rows = capacity.rows + 1;
  for (Array* array : {&row_begin_, &kv_len_, &page_begin_}) *array = memory.place<int32_t>(rows);
  for (Array* array : {&tokens_, &token_slots_, &positions_, &logit_rows_})
    *array = memory.place<int32_t>(capacity.tokens);
  tree_mask_ = memory.place<int64_t>(capacity.trees ? capacity.tokens : 0);
  pages_ = memory.place<int32_t>(capacity.pages + capacity.rows);
  host_begin_.reserve(static_cast<size_t>(rows));
  rows_.reserve(static_cast<size_t>(rows));
}

void Staging::begin(const plan::Batch& batch) {
  for (Array* array :
       {&tokens_,
        &token_slots_,
        &positions_,
        &row_begin_,
        &kv_len_,
        &page_begin_,
        &pages_,
        &logit_rows_}) {
    memory_.clear(*array);
  }
  memory_.clear(tree_mask_);
  trees_ = false;
  rows_.clear();
  host_begin_.clear();
  size_t begin = 0;
  for (const plan::Row& row : batch.rows) {
    host_begin_.push_back(begin);
    begin += static_cast<size_t>(row.count);
  }
  CHECK(
      begin == batch.tokens.size(),
      "batch {}: {} tokens in rows, {} listed",
      batch.id,
      begin,
      batch.tokens.size()
  );
  view_ = {};
  memory_.push(row_begin_, 0);
  memory_.push(page_begin_, 0);
}

void Staging::append(const plan::Batch& batch, size_t i, const Slot& slot, bool all_hidden) {
  const plan::Row& row = batch.rows[i];
  const int32_t start = row.from_device ? slot.position : row.start;
  const bool verify = kind_of(row) == Kind::verify;
  const auto nodes = static_cast<int32_t>(slot.tree.nodes.size());
  const int32_t count = verify ? nodes : row.count;
  if (verify) {
    CHECK(nodes > 1 && nodes <= row.count, "slot {}: {} nodes of {}", row.slot, nodes, row.count);
    trees_ = trees_ || !slot.tree.chain();
  }
  StagedRow staged{
      .batch_row = static_cast<int32_t>(i),
      .start = start,
      .token_begin = tokens_.size(),
      .count = count,
      .logit_begin = logit_rows_.size(),
      .logit_count = all_hidden ? count : (row.emits ? 1 : 0),
  };
  for (int32_t k = 0; k < count; ++k) {
    DraftTree::Node node{
        .token = batch.tokens[host_begin_[i] + static_cast<size_t>(k)], .depth = k};
    if (verify) node = slot.tree.nodes[static_cast<size_t>(k)];
    memory_.push(tokens_, node.token);
    memory_.push(token_slots_, row.from_device && !verify ? row.slot : -1);
    memory_.push(positions_, std::min(start + node.depth, capacity_.last_position));
    if (capacity_.trees) memory_.push(tree_mask_, node.mask);
  }
  memory_.push(row_begin_, tokens_.size());
  memory_.push(kv_len_, start + count);
  const auto pages = static_cast<size_t>(batch.page_begin[i]);
  const auto pages_end = static_cast<size_t>(batch.page_begin[i + 1]);
  memory_.append(pages_, std::span(batch.pages).subspan(pages, pages_end - pages));
  memory_.push(page_begin_, pages_.size());
  for (int32_t k = count - staged.logit_count; k < count; ++k)
    memory_.push(logit_rows_, staged.token_begin + k);
  rows_.push_back(staged);
  view_.max_count = std::max<int64_t>(view_.max_count, count);
  view_.max_kv_len = std::max<int64_t>(view_.max_kv_len, start + count);
}

// A graph's arguments are the same at every replay: so are the extents of the view.
void Staging::pad(int rows) {
  if (rows == 0) return;
  for (int i = static_cast<int>(rows_.size()); i < rows; ++i) {
    memory_.push(logit_rows_, tokens_.size());
    memory_.push(tokens_, 0);
    memory_.push(token_slots_, -1);
    memory_.push(positions_, 0);
    memory_.push(row_begin_, tokens_.size());
    memory_.push(kv_len_, 1);
    memory_.push(pages_, 0);
    memory_.push(page_begin_, pages_.size());
  }
  view_.single_rows = rows;
  view_.max_kv_len = capacity_.positions;
}

Tensor Staging::view_of(const Array& array) const {
  return memory_.device(array, DType::i32, array.size());
}

const layers::BatchView& Staging::finish() {
  view_.tokens = view_of(tokens_);
  view_.positions = view_of(positions_);
  view_.row_begin = view_of(row_begin_);
  view_.kv_len = view_of(kv_len_);
  view_.page_begin = view_of(page_begin_);
  // All that may ever hold tables: a graph's view may not shrink and grow.
  view_.pages = memory_.device(pages_, DType::i32, pages_.capacity());
  view_.logit_rows = view_of(logit_rows_);
  token_slots_view_ = view_of(token_slots_);
  if (trees_) view_.tree_mask = memory_.device(tree_mask_, DType::i64, tokens_.size());
  return view_;
}

}  // namespace fathom::runtime
