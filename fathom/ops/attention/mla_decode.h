// mla_decode: absorbed multi-head latent attention on the paged latent cache: every query head
// attends to one shared key of L + R values, whose first L values are also the value.
//
//   for query i of a sequence with n queries and S positions, at position S - n + i:
//     s_t = scale * (q_latent . c_t + q_rope . k_t)          for every visible position t
//     out = sum_t softmax(s)_t c_t                           [L], per head
//     lse = ln sum_t exp(s_t)
//   Visible: first <= t <= S - n + i; with tree_mask and m = S - n - mask_lead, first <= t < m, or
//   t >= m and bit t - m of the query's mask set.
//
// The queries of sequence b are the tokens row_begin[b] .. row_begin[b + 1] - 1, any number of
// them, S = kv_len[b] (paged_rows.h). A query with nothing visible (S = 0: a padded row) gets out =
// 0, lse = -inf. Every query's result depends on its own values, its position and the cache alone,
// never on the batch, page numbers, page size or threads, and that of a tree's query on its visible
// positions as if they followed one another; but row sm90 cuts long contexts into as
// many parts as the batch leaves processors, so that the rounding of its sums depends on the batch.
//
// Rows of the cache: c_t then k_t, L + R of one float dtype. Or FP8 rows, dtype u8, of
// mla_row_bytes(L, R): L e4m3 codes, L / 128 f32 scales (each of 128 codes), R bf16 values; they
// act as their dequantised values.
//
// Shapes: q_latent [T, H, L]; q_rope [T, H, R]; kv [P, p, L + R] or u8 [P, p, mla_row_bytes];
//   tree_mask [T] i64 (bit patterns; then mask_lead + n <= 64); out [T, H, L]; lse [T, H] f32.
//   q_latent, q_rope and out one dtype, f32 or bf16; float kv rows f32 or bf16, of their own.
//   Tokens and heads of q_latent, q_rope and out may be strided. Any page size. Nothing aliases.
// Sums of scores and values in float or wider; bf16 rows of the CUDA tables round the
// probabilities to bf16 before the products; of FP8 rows sm90 rounds them and the values to F16, in
// units of a power of two of each row, and with 64 heads a CTA adds the scores' products of 128
// dims up in FP8's 14 bits; row avx512_bf16_rounded them and the queries. Source: specs
// deepseek_v3, sections 2.5, 3, 4.
#pragma once

#include <cstdint>

#include "fathom/ops/attention/paged_rows.h"

namespace fathom::ops {

struct MlaDecode {
  PagedRows rows;
  Tensor q_latent;
  Tensor q_rope;
  Tensor kv;
  Tensor tree_mask = {};  // undefined: causal
  int64_t mask_lead = 0;  // positions before the step's own that the masks speak of
  int64_t first = 0;      // positions below it hold nothing
  float scale = 1.0f;
  Tensor out;
  Tensor lse = {};  // undefined: not wanted
};

void mla_decode(Exec& exec, const MlaDecode& args);

const KernelTable<MlaDecode>& mla_decode_table();
// Reads row_begin and kv_len, so it is for host tensors (bench).
Cost cost(const MlaDecode& args);

// Bytes of an FP8 row of the cache: 656 for 512 + 64.
constexpr int64_t mla_row_bytes(int64_t L, int64_t R) {
  return L + L / 128 * 4 + 2 * R;
}

template <class F>
void for_each_tensor(MlaDecode& args, F f) {
  // Of the step: written before its kernels begin, so that a row may plan before it waits.
  for_each_row_tensor(args.rows, [&](auto name, Tensor& t, Role) { f(name, t, Role::weight); });
  f("q_latent", args.q_latent, Role::in);
  f("q_rope", args.q_rope, Role::in);
  f("kv", args.kv, Role::in);
  if (args.tree_mask.defined()) f("tree_mask", args.tree_mask, Role::in);
  f("out", args.out, Role::out);
  if (args.lse.defined()) f("lse", args.lse, Role::out);
}

}  // namespace fathom::ops
