#include "fathom/layers/mla_expanded.h"

#include <algorithm>

#include "fathom/layers/linear.h"
#include "fathom/layers/mla_attention.h"
#include "fathom/ops/attention/merge_states.h"
#include "fathom/ops/attention/mha_prefill.h"
#include "fathom/ops/attention/mla_expand.h"
#include "fathom/ops/attention/mla_gather.h"

namespace fathom::layers {
namespace {

constexpr int64_t kChunk = 1024;  // cached positions expanded at once, over all rows

const int32_t* ints(const Tensor& t) {
  return t.as<int32_t>();
}

}  // namespace

// One attention: of each row's queries to its positions from[b] .. from[b] + begin[b + 1] -
// begin[b] - 1.
struct MlaExpanded::Span {
  ops::PagedRows rows;
  Tensor pages;
  Tensor q;
  Tensor from, begin, length;  // [B], [B + 1], [B] i32
  bool causal = false;

  static Span over(Exec& exec, const ops::PagedRows& rows, const Tensor& pages, const Tensor& q) {
    const int64_t B = rows.kv_len.dim(0);
    const auto alloc = [&](int64_t n) { return exec.workspace->alloc(DType::i32, {n}); };
    return {
        .rows = rows,
        .pages = pages,
        .q = q,
        .from = alloc(B),
        .begin = alloc(B + 1),
        .length = alloc(B)};
  }
  // Row b's positions [first, end); rows in order.
  void set(int64_t b, int64_t first, int64_t end) {
    const int64_t n = std::max<int64_t>(end - first, 0);
    if (b == 0) begin.as<int32_t>()[0] = 0;
    from.as<int32_t>()[b] = static_cast<int32_t>(first);
    length.as<int32_t>()[b] = static_cast<int32_t>(n);
    begin.as<int32_t>()[b + 1] = begin.as<int32_t>()[b] + static_cast<int32_t>(n);
  }
};

void MlaExpanded::load(weights::Loader& loader, const MlaShape& shape, const Tensor& both) {
  heads_ = shape.heads;
  latent_ = shape.latent;
  nope_ = shape.nope_dim;
  rope_ = shape.rope_dim;
  value_ = shape.value_dim;
  scale_ = shape.scale;
  kv_up_ = both.dim(0) % 32 == 0 ? loader.adopt(both) : both;
}

void MlaExpanded::attend(Exec& exec, const Span& span, const Tensor& y, const Tensor& lse) const {
  Workspace::Mark mark(*exec.workspace);
  const int64_t B = span.from.dim(0), S = ints(span.begin)[B], H = heads_, D = nope_ + rope_;
  const auto alloc = [&](auto... dims) { return exec.workspace->alloc(y.dtype, {dims...}); };
  const Tensor latent = alloc(S, latent_), k_rope = alloc(S, rope_);
  ops::mla_gather(
      exec,
      {.rows = span.rows,
       .from = span.from,
       .begin = span.begin,
       .kv = span.pages,
       .latent = latent,
       .k_rope = k_rope}
  );
  const Tensor kv = alloc(S, H * (nope_ + value_));
  multiply(exec, latent, {.data = kv_up_}, {}, kv);
  const Tensor keys = alloc(S, H, D), values = alloc(S, H, value_);
  ops::mla_expand(exec, {.kv = kv, .k_rope = k_rope, .keys = keys, .values = values});
  // Each expanded position is a page of its own.
  const Tensor identity = exec.workspace->alloc(DType::i32, {S});
  for (int64_t s = 0; s < S; ++s) identity.as<int32_t>()[s] = static_cast<int32_t>(s);
  ops::PagedAttention args{
      .rows = {span.rows.row_begin, span.length, span.begin, identity},
      .q = span.q,
      .keys = keys.reshape({S, H, 1, D}),
      .values = values.reshape({S, H, 1, value_}),
      .scale = scale_,
      .causal = span.causal,
      .y = y,
      .lse = lse,
  };
  for (int64_t b = 0; b < B; ++b) {
    const int64_t count = ints(span.rows.row_begin)[b + 1] - ints(span.rows.row_begin)[b];
    args.max_count = std::max(args.max_count, count);
    args.max_kv_len = std::max<int64_t>(args.max_kv_len, ints(span.length)[b]);
  }
  ops::mha_prefill(exec, args);
}

void MlaExpanded::operator()(
    Exec& exec,
    const BatchView& batch,
    int64_t from,
    int64_t n,
    const Tensor& pages,
    const Tensor& q,
    const Tensor& y
) const {
  Workspace::Mark mark(*exec.workspace);
  const int64_t T = q.dim(0);
  const ops::PagedRows rows = rows_of(batch, from, n);
  Span span = Span::over(exec, rows, pages, q);
  const auto prefix = [&](int64_t b) {
    return ints(rows.kv_len)[b] - (ints(rows.row_begin)[b + 1] - ints(rows.row_begin)[b]);
  };
  int64_t longest = 0;
  for (int64_t b = 0; b < n; ++b) {
    span.set(b, prefix(b), ints(rows.kv_len)[b]);
    longest = std::max<int64_t>(longest, prefix(b));
  }
  const Tensor lse = exec.workspace->alloc(DType::f32, {T, heads_});
  span.causal = true;
  attend(exec, span, y, lse);
  if (longest == 0) return;
  span.causal = false;
  const Tensor other = exec.workspace->alloc(y.dtype, {T, heads_, value_});
  const Tensor other_lse = exec.workspace->alloc(DType::f32, {T, heads_});
  const int64_t each = std::max<int64_t>(kChunk / n, 1);
  const int64_t t = ints(rows.row_begin)[0], count = ints(rows.row_begin)[n] - t;
  for (int64_t first = 0; first < longest; first += each) {
    for (int64_t b = 0; b < n; ++b) span.set(b, first, std::min<int64_t>(prefix(b), first + each));
    attend(exec, span, other, other_lse);
    ops::merge_states(
        exec,
        {.y = y.slice(0, t, count),
         .lse = lse.slice(0, t, count),
         .other = other.slice(0, t, count),
         .other_lse = other_lse.slice(0, t, count)}
    );
  }
}

int64_t MlaExpanded::step_bytes(const MlaShape& shape, int64_t tokens) {
  const int64_t H = shape.heads, expanded = std::max(tokens, 2 * kChunk);
  const int64_t key = shape.nope_dim + shape.rope_dim, value = shape.value_dim;
  const int64_t position =
      shape.latent + shape.rope_dim + H * (shape.nope_dim + value + key + value);
  // Kernels keep another form of the latents as scratch.
  const int64_t floats =
      expanded * (position + 2 * shape.latent + 1) + 2 * tokens * H * (value + 2);
  return 4 * floats + 32 * Workspace::kAlign;
}

}  // namespace fathom::layers
