#include "fathom/ops/attention/kv_append_rows.h"
#include "fathom/ops/attention/rope_append_rows.h"
#include "fathom/ops/rope/rope_rows.h"

namespace fathom::ops {
namespace {

Rope rope_of(const RopeAppend& args) {
  return {
      .positions = args.positions,
      .table = args.table,
      .pairs = args.pairs,
      .q = args.q,
      .k = args.k,
  };
}

KvAppend append_of(const RopeAppend& args) {
  return {
      .rows = args.rows,
      .k = args.k,
      .v = args.v,
      .keys = args.keys,
      .values = args.values,
  };
}

}  // namespace

void rope_append_ref(Exec& exec, const RopeAppend& args) {
  rope_ref(exec, rope_of(args));
  kv_append_ref(exec, append_of(args));
}

void rope_append_parts(Exec& exec, const RopeAppend& args) {
  rope(exec, rope_of(args));
  kv_append(exec, append_of(args));
}

}  // namespace fathom::ops
