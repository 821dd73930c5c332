// mla_decode: which CTA reads which keys. Every CTA works the whole plan out for itself, from what
// is known before the step begins, so that it costs no launch and no wait.
//
// The keys that query i sees are cut into blocks of 64 positions; the blocks of all queries, in
// order, are the units; each part takes a run of them: every part has the same work to within a
// block. A part's run crosses from one query to the next: a segment is its share
// of one query. A query that lies in several parts is put together by them (mla_letters.cuh).
#pragma once

#include <cstdint>

#include "fathom/ops/attention/mla_decode.h"
#include "fathom/ops/device/divisor.cuh"

namespace fathom::ops::mla {

using device::Divisor;

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
  int begin[kMaxQueries + 1];   // first unit of each query
  int first_page[kMaxQueries];  // the sequence's, among all pages
  uint16_t own[kMaxQueries];    // the sequence's queries in this step, where there is a tree mask
  uint8_t tail[kMaxQueries];    // of the query's last block, positions but one
  int parts;
  int each, longer;  // units of a part; the first `longer` parts have one more
  int first_query;   // of the CTA's part

  // Positions that the query sees, or looks at under a tree mask.
  __device__ __forceinline__ int length_of(int query) const {
    const int blocks = begin[query + 1] - begin[query];
    return blocks == 0 ? 0 : (blocks - 1) * kBlock + tail[query] + 1;
  }
};

struct Segment {
  int query;                    // in this launch
  int first, last;              // blocks of the query's keys
  int begin, end;               // units of the whole query
  int length, own, first_page;  // Plan

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

// How many parts there can be, and how many that end where queries of one length do: some for each
// query, or some queries for each.
struct Parts {
  Divisor most, ending;

  Parts() = default;
  Parts(int most_parts, int queries)
      : most(Divisor::of(most_parts)), ending(Divisor::of(ending_parts(most_parts, queries))) {}
  static int ending_parts(int most, int queries) {
    const int together = (queries + most - 1) / most;
    return together == 1 ? most - most % queries : (queries + together - 1) / together;
  }
};

// What is known of query i, into the plan; into `begin` its number of units, which cut_plan adds
// up.
__device__ __forceinline__ void look_up(const Step& step, int i, Plan& plan) {
  const int token = step.first_query + i;
  // All that is to be read is on its way at once where each sequence has one query.
  int sequence = min(token, step.sequences - 1);
  int begin = __ldg(step.query_begin + sequence), end = __ldg(step.query_begin + sequence + 1);
  int length = __ldg(step.kv_length + sequence), first_page = __ldg(step.page_begin + sequence);
  if (token < begin || token >= end) {
    sequence = sequence_of(step, token);
    begin = __ldg(step.query_begin + sequence);
    end = __ldg(step.query_begin + sequence + 1);
    length = __ldg(step.kv_length + sequence);
    first_page = __ldg(step.page_begin + sequence);
  }
  const int seen = step.tree_mask == nullptr ? max(length - end + token + 1, 0) : length;
  plan.first_page[i] = first_page;
  plan.own[i] = static_cast<uint16_t>(end - begin);
  plan.tail[i] = static_cast<uint8_t>((seen - 1) % kBlock);
  plan.begin[i] = (seen + kBlock - 1) / kBlock;
}

// By a warp: `begin` from numbers of units, and how the units are cut.
__device__ __forceinline__ void cut_plan(const Step& step, const Parts& of, int part, Plan& plan) {
  const int lane = static_cast<int>(threadIdx.x) % 32, first = plan.begin[0];
  int units = 0;
  bool alike = true;  // all queries have as many units
  for (int base = 0; base < step.queries; base += 32) {
    const int i = base + lane;
    const int own = i < step.queries ? plan.begin[i] : 0;
    alike = alike && (i >= step.queries || own == first);
    int sum = own;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, d);
      if (lane >= d) sum += other;
    }
    if (i < step.queries) plan.begin[i] = units + sum - own;
    units += __shfl_sync(0xffffffffu, sum, 31);
  }
  int parts = min(of.most.by, units), each = 1;
  if (units > of.most.by) {
    const auto most = [&](int least, int by) { return least + (least * by < units ? 1 : 0); };
    each = of.most.quotient(units);
    if (__all_sync(0xffffffffu, alike)) {
      constexpr int kSpare = 3;  // units more of a part that putting together less is worth
      const int ending = of.ending.quotient(units);
      if (most(ending, of.ending.by) <= most(each, parts) + kSpare) {
        parts = of.ending.by;
        each = ending;
      }
    }
  }
  const int longer = units - each * parts, unit = part * each + min(part, longer);
  __syncwarp();
  int before = 0;  // queries that begin at or before `unit`
  for (int base = 0; base < step.queries; base += 32) {
    const int i = base + lane;
    before += __popc(__ballot_sync(0xffffffffu, i < step.queries && plan.begin[i] <= unit));
  }
  if (lane > 0) return;
  plan.begin[step.queries] = units;
  plan.parts = parts;
  plan.each = each;
  plan.longer = units > 0 ? longer : 0;
  plan.first_query = before - 1;
}

// By all threads of the CTA of `part`, who meet before they read it. Up to 32 queries are one
// warp's, without a barrier.
__device__ __forceinline__ void make_plan(const Step& step, const Parts& of, int part, Plan& plan) {
  const auto thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < step.queries; i += static_cast<int>(blockDim.x)) look_up(step, i, plan);
  if (step.queries > 32) __syncthreads();
  if (thread < 32) {
    __syncwarp();
    cut_plan(step, of, part, plan);
  }
}

// The cut of all units into parts, and the walk over the segments of the CTA's part.
struct Cut {
  const Plan& plan;
  int queries;
  int parts, each, longer;  // Plan

  __device__ Cut(const Plan& p, int query_count)
      : plan(p), queries(query_count), parts(p.parts), each(p.each), longer(p.longer) {}

  __device__ __forceinline__ int begin_of(int part) const {
    return part * each + min(part, longer);
  }
  __device__ __forceinline__ int part_of(int unit) const {
    const int in_longer = longer * (each + 1);
    if (unit < in_longer) return Divisor::found(each + 1).quotient(unit);
    return longer + Divisor::found(each).quotient(unit - in_longer);
  }
  // f(segment) for each segment of the part, in order.
  template <class F>
  __device__ void for_each_segment(int part, F f) const {
    if (part >= parts) return;
    int unit = begin_of(part);
    const int end = begin_of(part + 1);
    for (int query = plan.first_query; unit < end; ++query) {
      Segment s;
      s.query = query;
      s.begin = plan.begin[query];
      s.end = plan.begin[query + 1];
      if (s.end <= unit) continue;
      s.first = unit - s.begin;
      s.last = min(s.end, end) - s.begin;
      s.length = plan.length_of(query);
      s.own = plan.own[query];
      s.first_page = plan.first_page[query];
      f(s);
      unit = min(s.end, end);
    }
  }
};

}  // namespace fathom::ops::mla
