// Where a token of a step stands: PagedRows on the device.
#pragma once

#include <cstdint>

#include "fathom/ops/attention/paged_rows.h"

namespace fathom::ops::attention {

struct Rows {
  const int32_t* row_begin;  // [count + 1]
  const int32_t* kv_len;
  const int32_t* page_begin;
  const int32_t* pages;
  int count;
};

inline Rows rows_of(const PagedRows& rows) {
  return {
      .row_begin = rows.row_begin.as<int32_t>(),
      .kv_len = rows.kv_len.as<int32_t>(),
      .page_begin = rows.page_begin.as<int32_t>(),
      .pages = rows.pages.as<int32_t>(),
      .count = static_cast<int>(rows.kv_len.dim(0)),
  };
}

// The row that holds the token. In a decode step row and token agree.
__device__ __forceinline__ int row_of(const Rows& rows, int token) {
  const int guess = min(token, rows.count - 1);
  if (rows.row_begin[guess] <= token && token < rows.row_begin[guess + 1]) return guess;
  int low = 0, high = rows.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (rows.row_begin[middle] <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

__device__ __forceinline__ int position_of(const Rows& rows, int row, int token) {
  return rows.kv_len[row] - rows.row_begin[row + 1] + token;
}

}  // namespace fathom::ops::attention
