#include "fathom/layers/mla_attention.h"

#include <algorithm>

#include "fathom/ops/attention/mla_decode.h"
#include "fathom/ops/attention/mla_store.h"
#include "fathom/ops/embed/row_gather.h"
#include "fathom/ops/gemm/head_gemm.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/rope/rope.h"

namespace fathom::layers {
namespace {

// Columns [from, from + n) of each head of x [T, H * width] as [T, H, n].
Tensor part_of_heads(const Tensor& x, int64_t heads, int64_t width, int64_t from, int64_t n) {
  Tensor t = x;
  t.rank = 3;
  t.dims = {x.dim(0), heads, width};
  t.strides = {x.stride(0), width, 1};
  return t.slice(2, from, n);
}

// The pages of an MLA layer, [P, 1, p, row], without the dimension of heads.
Tensor latent_pages(const LayerKv& kv) {
  Tensor t = kv.keys;
  t.rank = 3;
  t.dims = {kv.keys.dim(0), kv.keys.dim(2), kv.keys.dim(3)};
  t.strides = {kv.keys.stride(0), kv.keys.stride(2), 1};
  return t;
}

// both [H, nope + value, L]: of each head W_UK, turned, to key_up [H * L, nope], and W_UV to
// value_up [H * value, L]; or their scales, where `shape` counts blocks.
template <class T>
void split_heads(
    const Tensor& both, const MlaShape& shape, const Tensor& key_up, const Tensor& value_up
) {
  const int64_t L = shape.latent, N = shape.nope_dim, Dv = shape.value_dim;
  for (int64_t h = 0; h < shape.heads; ++h) {
    const T* from = static_cast<const T*>(both.data) + h * (N + Dv) * L;
    T* to = static_cast<T*>(key_up.data) + h * L * N;
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t l = 0; l < L; ++l) to[l * N + n] = from[n * L + l];
    }
    std::copy_n(from + N * L, Dv * L, static_cast<T*>(value_up.data) + h * Dv * L);
  }
}

}  // namespace

void MlaAttention::load(
    weights::Loader& loader,
    const weights::Scope& name,
    const MlaShape& shape,
    const Tensor& rope_table
) {
  shape_ = shape;
  rope_table_ = rope_table;
  const int64_t C = shape.width, H = shape.heads, Q = shape.query_rank;
  const int64_t latent_row = shape.latent + shape.rope_dim;
  const int64_t queries = H * (shape.nope_dim + shape.rope_dim);
  const weights::Scope kv_a = name / "kv_a_proj_with_mqa";
  if (Q > 0) {
    down_.load(
        loader,
        {{name / "q_a_proj", Q}, {kv_a, latent_row}},
        C,
        false,
        weights::Precision::products,
        shape.forms.joined_down
    );
    q_norm_.load(loader, name / "q_a_layernorm", Q, shape.norm_eps);
    q_up_.load(loader, {{name / "q_b_proj", queries}}, Q, false);
  } else {
    down_.load(loader, {{name / "q_proj", queries}, {kv_a, latent_row}}, C, false);
  }
  kv_norm_.load(loader, name / "kv_a_layernorm", shape.latent, shape.norm_eps);
  load_absorbed(loader, name / "kv_b_proj" / "weight");
  output_.load(loader, {{name / "o_proj", C}}, H * shape.value_dim, false);
  loader.ignore(name / "rotary_emb" / "inv_freq");
}

// kv_b_proj [H, nope + value, L]: of each head W_UK, then W_UV.
void MlaAttention::load_absorbed(weights::Loader& loader, const weights::Scope& kv_b) {
  const int64_t H = shape_.heads, L = shape_.latent, N = shape_.nope_dim, Dv = shape_.value_dim;
  const bool expands = shape_.forms.expands() && !loader.device().is_cuda();
  const bool blocks = N % ops::kFp8Block == 0 && Dv % ops::kFp8Block == 0;
  const QTensor codes = blocks ? loader.take_codes(kv_b, H * (N + Dv), L) : QTensor{};
  Tensor values;
  if (!codes.data.defined()) {
    values = loader.take_values(kv_b, {H * (N + Dv), L});
    if (values.defined()) load_values(loader, values);
  } else {
    load_codes(loader, codes);
    if (expands) values = loader.values_of(codes);
    loader.discard(codes.data);
    loader.discard(codes.scale);
  }
  if (!values.defined()) return;
  if (expands) {
    expanded_.load(loader, shape_, values);
  } else {
    loader.discard(values);
  }
}

void MlaAttention::load_values(weights::Loader& loader, const Tensor& both) {
  const int64_t H = shape_.heads, L = shape_.latent, N = shape_.nope_dim, Dv = shape_.value_dim;
  const Tensor key_up = loader.make(DType::f32, {H * L, N});
  const Tensor value_up = loader.make(DType::f32, {H * Dv, L});
  if (!key_up.defined() || !value_up.defined()) return;
  split_heads<float>(both, shape_, key_up, value_up);
  // A pack's rows would straddle heads; a GPU has no packs.
  const bool gpu = loader.device().is_cuda();
  key_up_.data = gpu || L % 32 == 0 ? loader.adopt(key_up) : key_up;
  value_up_.data = gpu || Dv % 32 == 0 ? loader.adopt(value_up) : value_up;
}

// Blocks of 128 x 128 stay blocks when they are turned.
void MlaAttention::load_codes(weights::Loader& loader, const QTensor& both) {
  const int64_t H = shape_.heads, L = shape_.latent, N = shape_.nope_dim, Dv = shape_.value_dim;
  constexpr int64_t kBlock = ops::kFp8Block;
  const Tensor key_up = loader.make(DType::f8e4m3, {H * L, N});
  const Tensor value_up = loader.make(DType::f8e4m3, {H * Dv, L});
  key_up_.scale = loader.make(DType::f32, {H * L / kBlock, N / kBlock});
  value_up_.scale = loader.make(DType::f32, {H * Dv / kBlock, L / kBlock});
  if (!key_up.defined() || !value_up.defined()) return;
  if (!key_up_.scale.defined() || !value_up_.scale.defined()) return;
  split_heads<uint8_t>(both.data, shape_, key_up, value_up);
  MlaShape blocks = shape_;
  for (int64_t* n : {&blocks.latent, &blocks.nope_dim, &blocks.value_dim}) *n /= kBlock;
  split_heads<float>(both.scale, blocks, key_up_.scale, value_up_.scale);
  key_up_.data = loader.adopt(key_up);
  value_up_.data = loader.adopt(value_up);
}

int64_t MlaAttention::absorbed_rows(const Exec& exec, const BatchView& batch) const {
  const MlaForms& forms = shape_.forms;
  const int64_t B = batch.rows(), decoding = batch.single_rows + batch.verify_rows;
  if (!expanded_.loaded() || exec.device.is_cuda() || batch.first_key > 0) return B;
  if (!forms.absorbed_decode) return batch.tree_mask.defined() ? decoding : 0;
  const auto at = [](const Tensor& t, int64_t i) { return int64_t{t.as<int32_t>()[i]}; };
  int64_t cached = 0;
  for (int64_t b = decoding; b < B; ++b)
    cached += at(batch.kv_len, b) - (at(batch.row_begin, b + 1) - at(batch.row_begin, b));
  return cached == 0 || cached >= forms.threshold ? decoding : B;
}

// Drafted tokens see their own path, all others what is before them.
void MlaAttention::decode_rows(
    Exec& exec,
    const BatchView& batch,
    int64_t n,
    const Tensor& pages,
    const Tensor& q_latent,
    const Tensor& q_rope,
    const Tensor& out
) const {
  const auto attend = [&](int64_t from, int64_t count, const Tensor& tree_mask) {
    if (count <= 0) return;
    ops::mla_decode(
        exec,
        {.rows = rows_of(batch, from, count),
         .q_latent = q_latent,
         .q_rope = q_rope,
         .kv = pages,
         .tree_mask = tree_mask,
         .mask_lead = tree_mask.defined() ? batch.mask_lead : 0,
         .first = batch.first_key,
         .scale = shape_.scale,
         .out = out}
    );
  };
  if (!batch.tree_mask.defined()) return attend(0, n, {});
  const int64_t verified = batch.single_rows + batch.verify_rows;
  attend(0, batch.single_rows, {});
  attend(batch.single_rows, batch.verify_rows, batch.tree_mask);
  attend(verified, n - verified, {});
}

void MlaAttention::attend_absorbed(
    Exec& exec,
    const BatchView& batch,
    int64_t n,
    const Tensor& pages,
    const Tensor& q,
    const Tensor& values
) const {
  Workspace::Mark mark(*exec.workspace);
  // Tokens of other rows lie behind; a device's batch is taken whole.
  const int64_t T = n == batch.rows() ? q.dim(0) : batch.row_begin.as<int32_t>()[n];
  const int64_t H = shape_.heads, N = shape_.nope_dim, L = shape_.latent;
  const Tensor q_latent = exec.workspace->alloc(q.dtype, {q.dim(0), H, L});
  const Tensor attended = exec.workspace->alloc(q.dtype, {q.dim(0), H, L});
  ops::head_gemm(
      exec,
      {.x = q.slice(2, 0, N).slice(0, 0, T),
       .weight = key_up_.data,
       .weight_scale = key_up_.scale,
       .y = q_latent.slice(0, 0, T)}
  );
  decode_rows(exec, batch, n, pages, q_latent, q.slice(2, N, shape_.rope_dim), attended);
  ops::head_gemm(
      exec,
      {.x = attended.slice(0, 0, T),
       .weight = value_up_.data,
       .weight_scale = value_up_.scale,
       .y = values.slice(0, 0, T)}
  );
}

// From the queries' part of down_'s output, as [n, H, nope + R]; in the workspace.
Tensor MlaAttention::queries(Exec& exec, const Tensor& low) const {
  const int64_t n = low.dim(0), H = shape_.heads, Q = shape_.query_rank;
  const int64_t width = shape_.nope_dim + shape_.rope_dim;
  Tensor q = low;  // [n, H * (nope + R)]
  if (Q > 0) {
    q = exec.workspace->alloc(low.dtype, {n, H * width});
    Workspace::Mark mark(*exec.workspace);
    const Tensor normed = exec.workspace->alloc(low.dtype, {n, Q});
    q_up_.behind_norm(exec, {.norm = &q_norm_, .x = low, .normed = normed}, q);
  }
  q = part_of_heads(q, H, width, 0, width);
  probe(exec, "attention.query", q);
  return q;
}

// Puts the latents and rope keys of down_'s output into the pages; turns these and q_rope.
void MlaAttention::store(
    Exec& exec,
    const BatchView& batch,
    const Tensor& down,
    const Tensor& q_rope,
    const Tensor& pages
) const {
  Workspace::Mark mark(*exec.workspace);
  const int64_t T = down.dim(0), L = shape_.latent, R = shape_.rope_dim;
  const int64_t latent_from = down_.rows() - L - R;
  const Tensor latent = exec.workspace->alloc(down.dtype, {T, L});
  const Tensor k_rope = down.slice(1, latent_from + L, R);  // one head for all, not normalised
  probe(exec, "attention.key_rope", k_rope);
  ops::mla_store(
      exec,
      {.rows = rows_of(batch, 0, batch.rows()),
       .positions = batch.positions,
       .table = rope_table_,
       .c = down.slice(1, latent_from, L),
       .weight = kv_norm_.weight(),
       .eps = kv_norm_.eps(),
       .latent = latent,
       .k_rope = k_rope,
       .q_rope = q_rope,
       .kv = pages}
  );
  probe(exec, "attention.latent", latent);
}

void MlaAttention::operator()(
    Exec& exec, const NormInput& in, const BatchView& batch, const LayerKv& kv, const Tensor& y
) const {
  Workspace::Mark mark(*exec.workspace);
  const Tensor& x = in.x;
  const int64_t T = x.dim(0), H = shape_.heads, Dv = shape_.value_dim, R = shape_.rope_dim;
  const Tensor down = exec.workspace->alloc(x.dtype, {T, down_.rows()});
  down_.behind_norm(exec, in, down);
  const Tensor q = queries(exec, down.slice(1, 0, down_.rows() - shape_.latent - R));
  const Tensor pages = latent_pages(kv);
  store(exec, batch, down, q.slice(2, shape_.nope_dim, R), pages);
  const Tensor values = exec.workspace->alloc(x.dtype, {T, H, Dv});
  const int64_t absorbed = absorbed_rows(exec, batch), expanded = batch.rows() - absorbed;
  if (absorbed > 0) attend_absorbed(exec, batch, absorbed, pages, q, values);
  if (expanded > 0) expanded_(exec, batch, absorbed, expanded, pages, q, values);
  output_(exec, values.reshape({T, H * Dv}), y);
}

void MlaAttention::last_tokens(
    Exec& exec,
    const NormInput& in,
    const BatchView& batch,
    const BatchView& asking,
    const LayerKv& kv,
    const Tensor& y
) const {
  Workspace::Mark mark(*exec.workspace);
  const Tensor& x = in.x;
  const int64_t T = x.dim(0), n = asking.rows(), H = shape_.heads;
  const int64_t Dv = shape_.value_dim, R = shape_.rope_dim;
  const auto alloc = [&](auto... dims) { return exec.workspace->alloc(x.dtype, {dims...}); };
  const Tensor down = alloc(T, down_.rows());
  down_.behind_norm(exec, in, down);
  const Tensor pages = latent_pages(kv);
  store(exec, batch, down, alloc(T, int64_t{0}, R), pages);
  if (n == 0) return;
  const int64_t width = down_.rows() - shape_.latent - R;
  const Tensor low = alloc(n, width);
  ops::row_gather(exec, {.x = down.slice(1, 0, width), .rows = asking.logit_rows, .y = low});
  const Tensor q = queries(exec, low);
  ops::rope(
      exec,
      {.positions = asking.positions,
       .table = rope_table_,
       .pairs = ops::RopePairs::adjacent,
       .q = q.slice(2, shape_.nope_dim, R),
       .k = alloc(n, int64_t{0}, R)}
  );
  const Tensor values = alloc(n, H, Dv);
  attend_absorbed(exec, asking, n, pages, q, values);
  output_(exec, values.reshape({n, H * Dv}), y);
}

}  // namespace fathom::layers
