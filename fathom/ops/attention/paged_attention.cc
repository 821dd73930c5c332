#include "fathom/ops/attention/paged_attention.h"

#include <algorithm>

namespace fathom::ops {

void expect_paged_attention(std::string_view op, const Exec& exec, const PagedAttention& args) {
  Expect expect(op, exec.device);
  expect_rows(expect, args.rows);
  expect.tensor("q", args.q, {"T", "H", "D"}, {DType::f32, DType::bf16})
      .tensor("keys", args.keys, {"P", "Hkv", "p", "D"}, {DType::f32, DType::f16, DType::bf16})
      .tensor("values", args.values, {"P", "Hkv", "p", "Dv"}, {args.keys.dtype})
      .optional("sinks", args.sinks, {"H"}, {DType::f32})
      .tensor("y", args.y, {"T", "H", "Dv"}, {args.q.dtype})
      .optional("lse", args.lse, {"T", "H"}, {DType::f32})
      .that(args.q.dim(1) % args.keys.dim(1) == 0, "H must be a multiple of Hkv")
      .that(args.window >= 0 && (args.causal || args.window == 0), "a window of causal attention");
}

Cost cost(const PagedAttention& args) {
  const double H = static_cast<double>(args.q.dim(1)), Hkv = static_cast<double>(args.keys.dim(1));
  const double dims = static_cast<double>(args.keys.dim(3) + args.values.dim(3));
  const double kv_bytes = Hkv * dims * info(args.keys.dtype).block_bytes;
  const double query_bytes = H * dims * info(args.q.dtype).block_bytes;
  const int32_t* row_begin = args.rows.row_begin.as<int32_t>();
  Cost total;
  for (int64_t b = 0; b < args.rows.kv_len.dim(0); ++b) {
    const double count = row_begin[b + 1] - row_begin[b];
    const double length = args.rows.kv_len.as<int32_t>()[b];
    const double window = args.window > 0 ? static_cast<double>(args.window) : length;
    total.bytes += std::min(length, window + count) * kv_bytes + count * query_bytes;
    total.flops += 2 * count * std::min(length - (count - 1) / 2, window) * H * dims;
  }
  return total;
}

}  // namespace fathom::ops
