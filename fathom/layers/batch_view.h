// BatchView: what a model sees of one step. Views of device memory that the runtime stages at fixed
// addresses from a plan::Batch, and the few numbers of it that the host knows.
//
// Rows (sequences) that hold one token come first, so that one kernel takes them and another the
// longer ones; then those that verify drafted tokens; then pieces of prompts. Token t of row b,
// row_begin[b] <= t < row_begin[b + 1], stands at position kv_len[b] - row_begin[b + 1] + t.
#pragma once

#include "fathom/core/tensor.h"
#include "fathom/ops/attention/paged_rows.h"

namespace fathom::layers {

struct BatchView {
  Tensor tokens;     // [T] i32, row after row
  Tensor positions;  // [T] i32
  Tensor row_begin;  // [B + 1] i32: offsets into tokens
  Tensor kv_len;  // [B] i32: positions of the row that are readable once this step's are appended
  Tensor page_begin;  // [B + 1] i32: offsets into pages
  Tensor pages;       // [n] i32: the rows' page tables, one after the other
  Tensor logit_rows;  // [n] i32: tokens whose logits are wanted, in the order of the answer

  // Of rows [single_rows, single_rows + verify_rows): [T] i64, which drafted tokens each token sees
  // (ops::MlaDecode); undefined: all before it.
  Tensor tree_mask;

  int64_t single_rows = 0;  // the first so many rows hold one token each
  int64_t verify_rows = 0;  // the next so many verify drafts
  int64_t mask_lead = 0;    // positions before the step's own that tree_mask speaks of
  int64_t first_key = 0;    // positions below it hold no key
  int64_t max_count = 0;    // most tokens of a row
  int64_t max_kv_len = 0;   // a bound of kv_len where the device sets it

  int64_t tokens_count() const { return tokens.dim(0); }
  int64_t rows() const { return kv_len.dim(0); }
};

// Rows [from, from + n) of the step, as ops take them.
inline ops::PagedRows rows_of(const BatchView& batch, int64_t from, int64_t n) {
  return {
      .row_begin = batch.row_begin.slice(0, from, n + 1),
      .kv_len = batch.kv_len.slice(0, from, n),
      .page_begin = batch.page_begin.slice(0, from, n + 1),
      .pages = batch.pages,
  };
}

}  // namespace fathom::layers
