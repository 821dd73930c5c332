// PagedRows: where the rows (sequences) of a step keep their keys and values: what every op on the
// paged cache takes.
//
// Row b holds the tokens row_begin[b] .. row_begin[b + 1] - 1 of the step; once they are appended,
// its positions 0 .. kv_len[b] - 1 are readable, so its tokens stand at the last ones. Position j
// lies in page pages[page_begin[b] + j / p], slot j % p. Offsets are absolute: a slice of rows (of
// row_begin and page_begin one element longer) needs no other change.
#pragma once

#include "fathom/core/expect.h"
#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct PagedRows {
  Tensor row_begin;   // [B + 1] i32
  Tensor kv_len;      // [B] i32
  Tensor page_begin;  // [B + 1] i32
  Tensor pages;       // [n] i32
};

// Adds the checks of these four to an op's.
inline void expect_rows(Expect& expect, const PagedRows& rows) {
  expect.tensor("row_begin", rows.row_begin, {"B+1"}, {DType::i32})
      .tensor("kv_len", rows.kv_len, {"B"}, {DType::i32})
      .tensor("page_begin", rows.page_begin, {"B+1"}, {DType::i32})
      .tensor("pages", rows.pages, {"pages"}, {DType::i32})
      .that(rows.row_begin.dim(0) == rows.kv_len.dim(0) + 1, "row_begin must have B + 1 elements");
}

template <class F>
void for_each_row_tensor(PagedRows& rows, F f) {
  f("row_begin", rows.row_begin, Role::in);
  f("kv_len", rows.kv_len, Role::in);
  f("page_begin", rows.page_begin, Role::in);
  f("pages", rows.pages, Role::in);
}

}  // namespace fathom::ops
