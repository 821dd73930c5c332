#include "fathom/layers/attention.h"

#include <cmath>

#include "fathom/ops/attention/gqa_decode.h"
#include "fathom/ops/attention/mha_prefill.h"
#include "fathom/ops/attention/rope_append.h"
#include "fathom/ops/norm/qk_norm.h"

namespace fathom::layers {
namespace {

// Heads `from` .. `from + n` of rows [T, heads * D], as [T, n, D].
Tensor heads_of(const Tensor& rows, int64_t from, int64_t n, int64_t D) {
  Tensor t = Tensor::of(rows.data, rows.dtype, rows.device, {rows.dim(0), rows.dim(1) / D, D});
  return t.slice(1, from, n);
}

}  // namespace

void Attention::load(
    weights::Loader& loader,
    const weights::Scope& name,
    const AttentionShape& shape,
    const Tensor& rope_table
) {
  shape_ = shape;
  rope_table_ = rope_table;
  const int64_t queries = shape.heads * shape.head_dim, keys = shape.kv_heads * shape.head_dim;
  qkv_.load(
      loader,
      {{name / "q_proj", queries}, {name / "k_proj", keys}, {name / "v_proj", keys}},
      shape.width,
      shape.qkv_bias
  );
  output_.load(loader, {{name / "o_proj", shape.width}}, queries, shape.output_bias);
  if (shape.qk_norm) {
    q_norm_ = loader.take_vector(name / "q_norm" / "weight", shape.head_dim);
    k_norm_ = loader.take_vector(name / "k_norm" / "weight", shape.head_dim);
  }
}

void Attention::operator()(
    Exec& exec, const NormInput& in, const BatchView& batch, const LayerKv& kv, const Tensor& y
) const {
  Workspace::Mark mark(*exec.workspace);
  const Tensor& x = in.x;
  const int64_t T = x.dim(0), H = shape_.heads, Hkv = shape_.kv_heads, D = shape_.head_dim;
  const Tensor qkv = exec.workspace->alloc(x.dtype, {T, (H + 2 * Hkv) * D});
  qkv_.behind_norm(exec, in, qkv);
  const Tensor q = heads_of(qkv, 0, H, D);          // [T, H, D]
  const Tensor k = heads_of(qkv, H, Hkv, D);        // [T, Hkv, D]
  const Tensor v = heads_of(qkv, H + Hkv, Hkv, D);  // [T, Hkv, D]
  if (shape_.qk_norm) {
    const auto eps = static_cast<float>(shape_.norm_eps);
    ops::qk_norm(exec, {.q_weight = q_norm_, .k_weight = k_norm_, .eps = eps, .q = q, .k = k});
  }
  ops::rope_append(
      exec,
      {.rows = rows_of(batch, 0, batch.rows()),
       .positions = batch.positions,
       .table = rope_table_,
       .pairs = shape_.rope_pairs,
       .q = q,
       .k = k,
       .v = v,
       .keys = kv.keys,
       .values = kv.values}
  );
  const Tensor attended = exec.workspace->alloc(x.dtype, {T, H, D});
  attend(exec, batch, kv, q, attended);
  output_(exec, attended.reshape({T, H * D}), y);
}

void Attention::attend(
    Exec& exec, const BatchView& batch, const LayerKv& kv, const Tensor& q, const Tensor& y
) const {
  ops::PagedAttention args{
      .rows = rows_of(batch, 0, batch.single_rows),
      .q = q,
      .keys = kv.keys,
      .values = kv.values,
      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape_.head_dim))),
      .max_count = 1,
      .max_kv_len = batch.max_kv_len,
      .y = y,
  };
  ops::gqa_decode(exec, args);
  args.rows = rows_of(batch, batch.single_rows, batch.rows() - batch.single_rows);
  args.max_count = batch.max_count;
  ops::mha_prefill(exec, args);
}

}  // namespace fathom::layers
