#include <cmath>
#include <limits>
#include <vector>

#include "fathom/ops/attention/mla_decode_rows.h"
#include "fathom/ops/attention/mla_row.h"

namespace fathom::ops {
namespace {

struct Query {
  int64_t t, sequence, masked, position;  // masked: the position of bit 0 of the mask
};

int64_t at(const Tensor& t, int64_t i) {
  return t.as<int32_t>()[i];
}

bool visible(const MlaDecode& args, const Query& query, int64_t key) {
  if (key < args.first) return false;
  if (!args.tree_mask.defined()) return key <= query.position;
  if (key < query.masked) return true;
  return (args.tree_mask.as<int64_t>()[query.t] >> (key - query.masked) & 1) != 0;
}

// One query and all its heads: the maximum of the scores first, then weights and values.
void attend(const MlaDecode& args, const Query& query, const std::vector<float>& rows) {
  const int64_t H = args.q_latent.dim(1);
  const int64_t L = args.q_latent.dim(2);
  const int64_t R = args.q_rope.dim(2);
  const int64_t S = at(args.rows.kv_len, query.sequence);
  std::vector<double> scores(static_cast<size_t>(S));
  std::vector<double> sum(static_cast<size_t>(L));
  for (int64_t h = 0; h < H; ++h) {
    const Tensor q_latent = args.q_latent.row(query.t).row(h);
    const Tensor q_rope = args.q_rope.row(query.t).row(h);
    double top = -std::numeric_limits<double>::infinity();
    for (int64_t s = 0; s < S; ++s) {
      const float* row = rows.data() + s * (L + R);
      double dot = 0;
      for (int64_t i = 0; i < L; ++i)
        dot += static_cast<double>(load_element(q_latent, i)) * row[i];
      for (int64_t i = 0; i < R; ++i)
        dot += static_cast<double>(load_element(q_rope, i)) * row[L + i];
      scores[static_cast<size_t>(s)] = dot * args.scale;
      if (visible(args, query, s)) top = std::max(top, scores[static_cast<size_t>(s)]);
    }
    double total = 0;
    std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t s = 0; s < S; ++s) {
      if (!visible(args, query, s)) continue;
      const double weight = std::exp(scores[static_cast<size_t>(s)] - top);
      total += weight;
      for (int64_t i = 0; i < L; ++i)
        sum[static_cast<size_t>(i)] += weight * rows[static_cast<size_t>(s * (L + R) + i)];
    }
    for (int64_t i = 0; i < L; ++i) {
      const double v = total > 0 ? sum[static_cast<size_t>(i)] / total : 0.0;
      store_element(args.out.row(query.t).row(h), i, static_cast<float>(v));
    }
    if (args.lse.defined())
      args.lse.row(query.t).as<float>()[h] = static_cast<float>(top + std::log(total));
  }
}

}  // namespace

void mla_decode_ref(Exec&, const MlaDecode& args) {
  const int64_t L = args.q_latent.dim(2);
  const int64_t R = args.q_rope.dim(2);
  const int64_t p = args.kv.dim(1);
  std::vector<float> rows;
  for (int64_t b = 0; b < args.rows.kv_len.dim(0); ++b) {
    const int64_t begin = at(args.rows.row_begin, b);
    const int64_t n = at(args.rows.row_begin, b + 1) - begin;
    const int64_t S = at(args.rows.kv_len, b);
    if (n == 0) continue;
    rows.resize(static_cast<size_t>(S * (L + R)));
    for (int64_t s = 0; s < S; ++s) {
      const int64_t page = at(args.rows.pages, at(args.rows.page_begin, b) + s / p);
      load_mla_row(args.kv, page, s % p, L, R, rows.data() + s * (L + R));
    }
    for (int64_t i = 0; i < n; ++i)
      attend(args, {begin + i, b, S - n - args.mask_lead, S - n + i}, rows);
  }
}

}  // namespace fathom::ops
