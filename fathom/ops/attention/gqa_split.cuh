// gqa_decode: which CTA reads which keys. The keys of a row that its query sees are cut into blocks
// of 64 positions; the blocks of all rows and key heads, in that order, are the units; each part
// takes an equal run of them. A segment is what a part has of one row and key head; where several
// parts have some, each adds up its own share of the output.
#pragma once

#include <cstdint>

#include "fathom/ops/attention/paged_rows.cuh"

namespace fathom::ops::gqa {

constexpr int kBlock = 64;
constexpr int kMaxRows = 1024;

struct Plan {
  int begin[kMaxRows + 1];  // first unit of each row
  int length[kMaxRows];
  int page_begin[kMaxRows];
  int token;  // of the first row; each row holds one
};

struct Segment {
  int row, head;    // key head
  int first, last;  // positions [first, last), first a multiple of kBlock
  int begin, end;   // units of the whole row and head
  bool whole;
};

struct Cut {
  const Plan& plan;
  const attention::Rows& rows;
  int heads, window;
  int parts = 0, each = 0, longer = 0;  // units of a part; the first `longer` have one more

  __device__ Cut(const Plan& p, const attention::Rows& r, int head_count, int seen, int most_parts)
      : plan(p), rows(r), heads(head_count), window(seen) {
    const int units = p.begin[r.count];
    parts = min(most_parts, units);
    each = parts > 0 ? units / parts : 0;
    longer = units - each * parts;
  }

  __device__ int begin_of(int part) const { return part * each + min(part, longer); }
  __device__ int part_of(int unit) const {
    const int in_longer = longer * (each + 1);
    return unit < in_longer ? unit / (each + 1) : longer + (unit - in_longer) / each;
  }
  // The first position that the row's query sees, and its block.
  __device__ int first_seen(int row) const {
    return window > 0 ? max(plan.length[row] - window, 0) : 0;
  }
  __device__ int blocks_of(int row) const {
    return (plan.length[row] + kBlock - 1) / kBlock - first_seen(row) / kBlock;
  }

  // By all threads; ends with a barrier of the CTA.
  __device__ static void make(const attention::Rows& rows, int heads, int window, Plan& plan) {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) plan.token = rows.row_begin[0];
    for (int i = thread; i < rows.count; i += static_cast<int>(blockDim.x)) {
      const int length = rows.kv_len[i];
      plan.page_begin[i] = rows.page_begin[i];
      plan.length[i] = length;
      const int seen = window > 0 ? max(length - window, 0) : 0;
      plan.begin[i] = ((length + kBlock - 1) / kBlock - seen / kBlock) * heads;
    }
    __syncthreads();
    if (thread < 32) {
      int before = 0;
      for (int base = 0; base < rows.count; base += 32) {
        const int i = base + thread;
        const int own = i < rows.count ? plan.begin[i] : 0;
        int sum = own;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
          const int other = __shfl_up_sync(0xffffffffu, sum, d);
          if (thread >= d) sum += other;
        }
        if (i < rows.count) plan.begin[i] = before + sum - own;
        before += __shfl_sync(0xffffffffu, sum, 31);
      }
      if (thread == 0) plan.begin[rows.count] = before;
    }
    __syncthreads();
  }

  // f(segment) for each segment of the part, in order.
  template <class F>
  __device__ void for_each_segment(int part, F f) const {
    if (part >= parts) return;
    const int end = begin_of(part + 1);
    int unit = begin_of(part), low = 0, high = rows.count - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (plan.begin[middle] <= unit) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    for (int row = low; unit < end;) {
      if (plan.begin[row + 1] <= unit) {
        ++row;
        continue;
      }
      const int blocks = blocks_of(row), head = (unit - plan.begin[row]) / blocks;
      Segment s{.row = row, .head = head};
      s.begin = plan.begin[row] + head * blocks;
      s.end = s.begin + blocks;
      const int last = min(s.end, end), base = first_seen(row) / kBlock;
      s.first = (base + unit - s.begin) * kBlock;
      s.last = min((base + last - s.begin) * kBlock, plan.length[row]);
      s.whole = unit == s.begin && last == s.end;
      f(s);
      unit = last;
    }
  }
};

}  // namespace fathom::ops::gqa
