// Inputs of gqa_decode's and mha_prefill's cases.
#pragma once

#include <cmath>

#include "fathom/ops/attention/paged_attention.h"
#include "fathom/ops/attention/paged_case.h"

namespace fathom::testing {

struct AttentionShape {
  int64_t H = 1, Hkv = 1, D = 64;
  int32_t page_size = 16;
  DType dtype = DType::f32;
  DType kv_dtype = DType::f32;
  int64_t window = 0;
  bool sinks = false;
  bool causal = true;
  bool lse = false;
  int64_t Dv = 0;  // 0: D
};

// A softmax-weighted mean of values about 1: float sums of up to max_kv_len terms; with bf16, the
// roundings of the output.
inline constexpr Bound kAttentionF32{.absolute = 2e-5, .relative = 1e-4};
inline constexpr Bound kAttentionBf16{.absolute = 4e-3, .relative = 0x1p-7, .cosine = 1e-4};

inline OpCase<ops::PagedAttention> attention_case(
    std::string name,
    std::vector<RowShape> rows,
    AttentionShape shape,
    bool bench = false,
    bool large = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            const PagedInputs paged = make_rows(in, rows, shape.page_size);
            const int64_t T = paged.tokens;
            ops::PagedAttention args;
            args.rows = paged.rows;
            args.q = in.normal(shape.dtype, {T, shape.H, shape.D});
            const int64_t P = paged.pages, Hkv = shape.Hkv, p = shape.page_size;
            const int64_t Dv = shape.Dv > 0 ? shape.Dv : shape.D;
            args.keys = in.normal(shape.kv_dtype, {P, Hkv, p, shape.D});
            args.values = in.normal(shape.kv_dtype, {P, Hkv, p, Dv});
            args.causal = shape.causal;
            args.scale = 1.0f / std::sqrt(static_cast<float>(shape.D));
            args.window = shape.window;
            if (shape.sinks) args.sinks = in.normal(DType::f32, {shape.H});
            args.max_count = paged.max_count;
            args.max_kv_len = paged.max_kv_len;
            args.y = in.output(shape.dtype, {T, shape.H, Dv});
            if (shape.lse) args.lse = in.output(DType::f32, {T, shape.H});
            return args;
          },
      .bound = shape.dtype == DType::f32 ? kAttentionF32 : kAttentionBf16,
      .bench = bench,
      .large = large,
  };
}

}  // namespace fathom::testing
