// mla_decode: which CTA reads which keys. Every CTA works the whole plan out for itself, from what
// is known before the step begins, so that it costs no launch and no wait.
//
// The keys that query i sees are cut into blocks of 64 positions; the blocks of all queries, in
// order, are the units; each part takes a run of them: every part has the same work to within a
// block. A part's run crosses from one query to the next: a segment is its share
// of one query. A query that lies in several parts is put together by them (mla_combine.cuh).
#pragma once

#include <cstdint>

#include "fathom/ops/attention/mla_decode.h"

namespace fathom::ops::mla {

constexpr int kBlock = 64;        // positions
constexpr int kMaxQueries = 512;  // of one launch
constexpr int kMaxParts = 144;    // multiprocessors

struct Step {
  const int* pages;
  const int* page_begin;
  const int* query_begin;
  const int* kv_length;
  const int64_t* tree_mask;  // null: causal
  int sequences;
  int first_query, queries;  // of this launch
  int page;                  // positions of a page
};

// Of all queries; for a launch on some of them set first_query and queries.
inline Step step_of(const MlaDecode& args) {
  const PagedRows& rows = args.rows;
  return {
      .pages = rows.pages.as<int32_t>(),
      .page_begin = rows.page_begin.as<int32_t>(),
      .query_begin = rows.row_begin.as<int32_t>(),
      .kv_length = rows.kv_len.as<int32_t>(),
      .tree_mask = args.tree_mask.defined() ? args.tree_mask.as<int64_t>() : nullptr,
      .sequences = static_cast<int>(rows.kv_len.dim(0)),
      .first_query = 0,
      .queries = static_cast<int>(args.q_latent.dim(0)),
      .page = static_cast<int>(args.kv.dim(1)),
  };
}

struct Plan {
  int begin[kMaxQueries + 1];  // first unit of each query
  int sequence[kMaxQueries];
  int length[kMaxQueries];  // positions seen, or looked at under a tree mask
  bool alike;               // all queries have as many units
};

struct Segment {
  int query;        // in this launch
  int first, last;  // blocks of the query's keys
  int begin, end;   // units of the whole query
  int sequence, length;

  __device__ bool whole() const { return last - first == end - begin; }
};

__device__ __forceinline__ int sequence_of(const Step& step, int token) {
  int low = 0, high = step.sequences - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (__ldg(step.query_begin + middle) <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// The position of the sequence's first query.
__device__ __forceinline__ int first_position(const Step& step, int sequence) {
  return __ldg(step.kv_length + sequence) -
         (__ldg(step.query_begin + sequence + 1) - __ldg(step.query_begin + sequence));
}

// By all threads of the CTA; ends with a barrier of the CTA.
__device__ __forceinline__ void make_plan(const Step& step, Plan& plan) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < step.queries; i += static_cast<int>(blockDim.x)) {
    const int token = step.first_query + i;
    // All that is to be read is on its way at once where each sequence has one query.
    int sequence = min(token, step.sequences - 1);
    int begin = __ldg(step.query_begin + sequence), end = __ldg(step.query_begin + sequence + 1);
    int length = __ldg(step.kv_length + sequence);
    if (token < begin || token >= end) {
      sequence = sequence_of(step, token);
      end = __ldg(step.query_begin + sequence + 1);
      length = __ldg(step.kv_length + sequence);
    }
    const int seen = step.tree_mask == nullptr ? max(length - end + token + 1, 0) : length;
    plan.sequence[i] = sequence;
    plan.length[i] = seen;
    plan.begin[i] = (seen + kBlock - 1) / kBlock;
  }
  __syncthreads();
  if (thread < 32) {
    int before = 0;
    bool alike = true;
    const int first = plan.begin[0];
    for (int base = 0; base < step.queries; base += 32) {
      const int i = base + thread;
      const int blocks = i < step.queries ? plan.begin[i] : 0;
      alike = alike && (i >= step.queries || blocks == first);
      int sum = blocks;
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, sum, d);
        if (thread >= d) sum += other;
      }
      if (i < step.queries) plan.begin[i] = before + sum - blocks;
      before += __shfl_sync(0xffffffffu, sum, 31);
    }
    alike = __all_sync(0xffffffffu, alike);
    if (thread == 0) {
      plan.begin[step.queries] = before;
      plan.alike = alike;
    }
  }
  __syncthreads();
}

// The cut of all units into parts, and the walk over one part's segments.
struct Cut {
  const Plan& plan;
  int queries, units, parts;
  int each = 0, longer = 0;  // units of a part; the first `longer` parts have one more

  __device__ Cut(const Plan& p, int query_count, int most_parts)
      : plan(p), queries(query_count), units(p.begin[query_count]), parts(min(most_parts, units)) {
    if (parts == 0) return;
    if (plan.alike) {            // parts that end where queries do, or that many of each query
      constexpr int kSpare = 3;  // units more of a part that putting together less is worth
      const int together = (queries + parts - 1) / parts;
      const int even =
          together == 1 ? parts - parts % queries : (queries + together - 1) / together;
      if ((units + even - 1) / even <= (units + parts - 1) / parts + kSpare) parts = even;
    }
    each = units / parts;
    longer = units - each * parts;
  }

  __device__ __forceinline__ int begin_of(int part) const {
    return part * each + min(part, longer);
  }
  __device__ __forceinline__ int part_of(int unit) const {
    const int in_longer = longer * (each + 1);
    return unit < in_longer ? unit / (each + 1) : longer + (unit - in_longer) / each;
  }
  // f(segment) for each segment of the part, in order.
  template <class F>
  __device__ void for_each_segment(int part, F f) const {
    if (part >= parts) return;
    int unit = begin_of(part);
    const int end = begin_of(part + 1);
    int low = 0, high = queries - 1;  // the last query that begins at or before `unit`
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (plan.begin[middle] <= unit) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    for (int query = low; unit < end; ++query) {
      Segment s;
      s.query = query;
      s.begin = plan.begin[query];
      s.end = plan.begin[query + 1];
      if (s.end <= unit) continue;
      s.first = unit - s.begin;
      s.last = min(s.end, end) - s.begin;
      s.sequence = plan.sequence[query];
      s.length = plan.length[query];
      f(s);
      unit = min(s.end, end);
    }
  }
};

}  // namespace fathom::ops::mla
