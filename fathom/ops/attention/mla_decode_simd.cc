// mla_decode on vectors: an online softmax over blocks of 16 positions, aligned to absolute
// position, ascending; so a query's bits depend on its position and the cache alone. A block's rows
// are decoded once for up to 16 heads. One source, compiled for AVX2, AVX-512 and NEON.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/attention/mla_decode_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include <algorithm>
#include <cmath>
#include <limits>

#include "fathom/ops/attention/mla_decode_rows.h"
#include "fathom/ops/attention/mla_row.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr int kSums = 4;  // registers of a value product at once

// What one thread keeps: some heads of one query, one block of rows.
struct Scratch {
  alignas(64) float query[kMlaHeads][kMlaMaxRow];
  alignas(64) float sum[kMlaHeads][kMlaMaxRow];
  alignas(64) float rows[kMlaBlock][kMlaMaxRow];
  float top[kMlaHeads];
  float total[kMlaHeads];
};

struct Query {
  int64_t t, row, position;  // row of the batch
  int64_t masked;            // position of bit 0 of the tree mask
  int64_t head, heads;       // the heads at work
};

// Where the keys that a query sees stand. A tree's are counted as if they followed one another, so
// that the query's bits are those of its path decoded alone.
struct Keys {
  int64_t count;    // behind the first keys of the sequence
  int64_t plain;    // the first so many stand at their own number
  int8_t step[64];  // then: how far behind `plain`
  int64_t position(int64_t key) const { return key < plain ? key : plain + step[key - plain]; }
};

int64_t at(const Tensor& t, int64_t i) {
  return t.as<int32_t>()[i];
}

Keys keys_of(const MlaDecode& args, const Query& q) {
  Keys keys;
  keys.count = keys.plain = std::max<int64_t>(q.position + 1, 0);
  if (!args.tree_mask.defined()) return keys;
  keys.count = keys.plain = q.masked;
  const int64_t last = at(args.rows.kv_len, q.row) - q.masked;
  for (int64_t bit = 0; bit < last; ++bit) {
    if ((args.tree_mask.as<int64_t>()[q.t] >> bit & 1) != 0)
      keys.step[keys.count++ - keys.plain] = static_cast<int8_t>(bit);
  }
  return keys;
}

// scores[j] = query . rows[j], four rows at a time; `size` is a multiple of the lanes.
HWY_NOINLINE void score_rows(const float* query, const Scratch& s, int64_t size, float* scores) {
  const F32 d;
  for (int j = 0; j < kMlaBlock; j += 4) {
    VF a = hn::Zero(d), b = a, c = a, e = a;
    for (int64_t i = 0; i < size; i += kLanes) {
      const VF q = hn::Load(d, query + i);
      a = hn::MulAdd(q, hn::Load(d, s.rows[j] + i), a);
      b = hn::MulAdd(q, hn::Load(d, s.rows[j + 1] + i), b);
      c = hn::MulAdd(q, hn::Load(d, s.rows[j + 2] + i), c);
      e = hn::MulAdd(q, hn::Load(d, s.rows[j + 3] + i), e);
    }
    scores[j] = hn::GetLane(hn::SumOfLanes(d, a));
    scores[j + 1] = hn::GetLane(hn::SumOfLanes(d, b));
    scores[j + 2] = hn::GetLane(hn::SumOfLanes(d, c));
    scores[j + 3] = hn::GetLane(hn::SumOfLanes(d, e));
  }
}

// sum = sum * decay + weights . rows over the first L columns.
HWY_NOINLINE void add_rows(
    float* sum, float decay, const float* weights, const Scratch& s, int64_t L
) {
  const F32 d;
  for (int64_t i = 0; i < L; i += kSums * kLanes) {
    VF acc[kSums];
#pragma GCC unroll 4
    for (int v = 0; v < kSums; ++v)
      acc[v] = hn::Mul(hn::Load(d, sum + i + v * kLanes), hn::Set(d, decay));
    for (int j = 0; j < kMlaBlock; ++j) {
      const VF weight = hn::Set(d, weights[j]);
#pragma GCC unroll 4
      for (int v = 0; v < kSums; ++v)
        acc[v] = hn::MulAdd(weight, hn::Load(d, s.rows[j] + i + v * kLanes), acc[v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kSums; ++v) hn::Store(acc[v], d, sum + i + v * kLanes);
  }
}

// Rows of keys [from, from + block); what is behind the last is zero.
void load_block(const MlaDecode& args, const Query& q, const Keys& keys, int64_t from, Scratch& s) {
  const int64_t L = args.q_latent.dim(2), R = args.q_rope.dim(2), p = args.kv.dim(1);
  for (int64_t j = 0; j < kMlaBlock; ++j) {
    float* row = s.rows[j];
    if (from + j >= keys.count) {
      std::fill_n(row, kMlaMaxRow, 0.0f);
      continue;
    }
    const int64_t position = keys.position(from + j);
    const int64_t page = at(args.rows.pages, at(args.rows.page_begin, q.row) + position / p);
    load_mla_row(args.kv, page, position % p, L, R, row);
  }
}

void add_block(const MlaDecode& args, const Query& q, const Keys& keys, int64_t from, Scratch& s) {
  const int64_t L = args.q_latent.dim(2), R = args.q_rope.dim(2);
  bool seen[kMlaBlock];
  for (int64_t j = 0; j < kMlaBlock; ++j) seen[j] = from + j >= args.first && from + j < keys.count;
  alignas(64) float scores[kMlaBlock];
  for (int64_t h = 0; h < q.heads; ++h) {
    score_rows(s.query[h], s, L + R, scores);
    float top = s.top[h];
    for (int j = 0; j < kMlaBlock; ++j) {
      scores[j] = seen[j] ? scores[j] * args.scale : kNothing;
      top = std::max(top, scores[j]);
    }
    if (top == kNothing) continue;
    const float decay = std::exp(s.top[h] - top);
    float total = s.total[h] * decay;
    for (float& score : scores) total += score = std::exp(score - top);
    add_rows(s.sum[h], decay, scores, s, L);
    s.top[h] = top;
    s.total[h] = total;
  }
}

void run_query(const MlaDecode& args, const Query& q, Scratch& s) {
  const int64_t L = args.q_latent.dim(2), R = args.q_rope.dim(2);
  for (int64_t h = 0; h < q.heads; ++h) {
    const Tensor latent = args.q_latent.row(q.t).row(q.head + h);
    const Tensor rope = args.q_rope.row(q.t).row(q.head + h);
    for (int64_t i = 0; i < L; ++i) s.query[h][i] = load_element(latent, i);
    for (int64_t i = 0; i < R; ++i) s.query[h][L + i] = load_element(rope, i);
    std::fill_n(s.sum[h], L, 0.0f);
    s.top[h] = kNothing;
    s.total[h] = 0;
  }
  const Keys keys = keys_of(args, q);
  for (int64_t from = 0; from < keys.count; from += kMlaBlock) {
    load_block(args, q, keys, from, s);
    add_block(args, q, keys, from, s);
  }
  for (int64_t h = 0; h < q.heads; ++h) {
    const Tensor out = args.out.row(q.t).row(q.head + h);
    const float total = s.total[h];
    for (int64_t i = 0; i < L; ++i) store_element(out, i, total > 0 ? s.sum[h][i] / total : 0.0f);
    if (args.lse.defined()) args.lse.row(q.t).as<float>()[q.head + h] = s.top[h] + std::log(total);
  }
}

// The query of token t, found among the batch's rows from `row` on.
Query locate(const MlaDecode& args, int64_t t, int64_t row) {
  while (at(args.rows.row_begin, row + 1) <= t) ++row;
  const int64_t begin = at(args.rows.row_begin, row);
  const int64_t first = at(args.rows.kv_len, row) - (at(args.rows.row_begin, row + 1) - begin);
  return {.t = t, .row = row, .position = first + t - begin, .masked = first - args.mask_lead};
}

}  // namespace

void mla_decode(Exec& exec, const MlaDecode& args) {
  const int64_t H = args.q_latent.dim(1), B = args.rows.kv_len.dim(0);
  const int64_t begin = at(args.rows.row_begin, 0), end = at(args.rows.row_begin, B);
  // Items are groups of heads of a query, all of one size but the last.
  const int64_t group = std::min<int64_t>(kMlaHeads, std::max<int64_t>(1, H / 2));
  const int64_t groups = (H + group - 1) / group;
  exec.parallel_for((end - begin) * groups, 1, [&](Range items) {
    Scratch s;
    int64_t row = 0;
    for (int64_t i = items.begin; i < items.end; ++i) {
      Query q = locate(args, begin + i / groups, row);
      row = q.row;
      q.head = i % groups * group;
      q.heads = std::min(group, H - q.head);
      run_query(args, q, s);
    }
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
