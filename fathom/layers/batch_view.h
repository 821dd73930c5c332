// BatchView: what a model sees of one step. Views of device memory that the runtime stages at fixed
// addresses from a plan::Batch, and the few numbers of it that the host knows.
//
// Rows (sequences) that hold one token come first, so that one kernel takes them and another the
// longer ones. Token t of row b, row_begin[b] <= t < row_begin[b + 1], stands at position
// kv_len[b] - row_begin[b + 1] + t.
#pragma once

#include "fathom/core/tensor.h"

namespace fathom::layers {

struct BatchView {
  Tensor tokens;     // [T] i32, row after row
  Tensor positions;  // [T] i32
  Tensor row_begin;  // [B + 1] i32: offsets into tokens
  Tensor kv_len;  // [B] i32: positions of the row that are readable once this step's are appended
  Tensor page_begin;  // [B + 1] i32: offsets into pages
  Tensor pages;       // [n] i32: the rows' page tables, one after the other
  Tensor logit_rows;  // [n] i32: tokens whose logits are wanted, in the order of the answer

  int64_t single_rows = 0;  // the first so many rows hold one token each
  int64_t max_count = 0;    // most tokens of a row
  int64_t max_kv_len = 0;   // a bound of kv_len where the device sets it

  int64_t tokens_count() const { return tokens.dim(0); }
  int64_t rows() const { return kv_len.dim(0); }
};

}  // namespace fathom::layers
