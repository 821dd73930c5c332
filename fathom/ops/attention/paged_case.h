// Rows over randomly scattered pages: what the cases of the paged ops share.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "fathom/ops/attention/paged_rows.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {

// One row: its tokens of this step, and its positions once they are appended.
struct RowShape {
  int32_t count = 1;
  int32_t kv_len = 1;
};

struct PagedInputs {
  ops::PagedRows rows;
  int64_t tokens = 0;
  int64_t pages = 1;  // the dummy page among them
  int64_t max_count = 0;
  int64_t max_kv_len = 0;
};

inline PagedInputs make_rows(
    CaseInputs& in, const std::vector<RowShape>& shapes, int32_t page_size
) {
  PagedInputs made;
  std::vector<int32_t> row_begin{0}, page_begin{0}, kv_len;
  for (const RowShape& row : shapes) {
    row_begin.push_back(row_begin.back() + row.count);
    page_begin.push_back(page_begin.back() + (row.kv_len + page_size - 1) / page_size);
    kv_len.push_back(row.kv_len);
    made.max_count = std::max<int64_t>(made.max_count, row.count);
    made.max_kv_len = std::max<int64_t>(made.max_kv_len, row.kv_len);
  }
  std::vector<int32_t> pages(static_cast<size_t>(page_begin.back()));
  std::iota(pages.begin(), pages.end(), 1);
  std::shuffle(pages.begin(), pages.end(), in.random());
  const auto vector = [&](const std::vector<int32_t>& data) {
    return in.values({static_cast<int64_t>(data.size())}, data);
  };
  made.tokens = row_begin.back();
  made.pages = page_begin.back() + 1;
  made.rows = {vector(row_begin), vector(kv_len), vector(page_begin), vector(pages)};
  return made;
}

}  // namespace fathom::testing
