#include "fathom/ops/attention/mla_kv_append_rows.h"
#include "fathom/ops/attention/mla_store_rows.h"
#include "fathom/ops/norm/rms_norm_rows.h"
#include "fathom/ops/rope/rope_rows.h"

namespace fathom::ops {
namespace {

RmsNorm norm_of(const MlaStore& args) {
  return {.x = args.c, .weight = args.weight, .eps = args.eps, .y = args.latent};
}

Rope rope_of(const MlaStore& args) {
  Tensor k = args.k_rope;  // [T, 1, R]
  k.rank = 3;
  k.dims = {args.k_rope.dim(0), 1, args.k_rope.dim(1)};
  k.strides = {args.k_rope.stride(0), args.k_rope.dim(1), 1};
  return {
      .positions = args.positions,
      .table = args.table,
      .pairs = RopePairs::adjacent,
      .q = args.q_rope,
      .k = k};
}

MlaKvAppend append_of(const MlaStore& args) {
  return {.rows = args.rows, .latent = args.latent, .k_rope = args.k_rope, .kv = args.kv};
}

}  // namespace

void mla_store_ref(Exec& exec, const MlaStore& args) {
  rms_norm_ref(exec, norm_of(args));
  rope_ref(exec, rope_of(args));
  mla_kv_append_ref(exec, append_of(args));
}

void mla_store_parts(Exec& exec, const MlaStore& args) {
  rms_norm(exec, norm_of(args));
  rope(exec, rope_of(args));
  mla_kv_append(exec, append_of(args));
}

}  // namespace fathom::ops
