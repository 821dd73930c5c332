// grouped_moe on the CPU as one product per active expert: its tokens' rows are gathered, go
// through the expert as a batch, and land in a row for each (token, slot), which are then summed in
// ascending slot order. Products compute a row's bits from that row alone, so no result depends on
// which tokens share an expert. FP8 weights in blocks are multiplied with quantised rows: x once,
// the inner activations behind SwiGLU, unrounded between; weights with a scale per channel by a
// product that quantises its rows.
#include <algorithm>
#include <cstring>

#include "fathom/ops/act/silu_mul.h"
#include "fathom/ops/element.h"
#include "fathom/ops/gemm/bf16_gemm.h"
#include "fathom/ops/gemm/fp8_block_gemm.h"
#include "fathom/ops/moe/grouped_moe_rows.h"
#include "fathom/ops/moe/moe_align.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/fused_quant.h"

namespace fathom::ops {
namespace {

// Activations of FP8 products: codes [n, K], a row of scales for each 128 values.
struct Quantised {
  Tensor codes, scale;
};

Quantised alloc_quantised(Exec& exec, int64_t n, int64_t K) {
  return {
      exec.workspace->alloc(DType::f8e4m3, {n, K}),
      exec.workspace->alloc(DType::f32, {K / kFp8Block, (n + 3) / 4 * 4}),
  };
}

// An expert's part of a stack of weights.
QTensor expert_of(const QTensor& stack, int64_t e) {
  return {
      .data = stack.data.row(e),
      .scale = stack.scale.defined() ? stack.scale.row(e) : Tensor{},
  };
}

// The tokens of one expert, in order of their slots, from all tokens' quantised rows; out [n, C].
void run_fp8_expert(
    Exec& exec,
    const GroupedMoe& args,
    int64_t e,
    const int32_t* slots,
    const Quantised& all,
    const Tensor& out
) {
  const int64_t n = out.dim(0), k = args.ids.dim(1), C = args.x.dim(1), I = args.down.data.dim(2);
  Workspace::Mark mark(*exec.workspace);
  const Quantised x = alloc_quantised(exec, n, C), h = alloc_quantised(exec, n, I);
  const Tensor gate_up = exec.workspace->alloc(DType::f32, {n, 2 * I});
  for (int64_t i = 0; i < n; ++i) {
    const int64_t t = slots[i] / k;
    std::memcpy(x.codes.row(i).data, all.codes.row(t).data, static_cast<size_t>(C));
    for (int64_t b = 0; b < C / kFp8Block; ++b)
      x.scale.row(b).as<float>()[i] = all.scale.row(b).as<float>()[t];
  }
  fp8_block_gemm(
      exec, {.x = x.codes, .x_scale = x.scale, .w = expert_of(args.gate_up, e), .y = gate_up}
  );
  fused_quant(
      exec,
      {.x = gate_up,
       .prologue = FusedQuant::Prologue::swiglu,
       .ue8m0 = args.ue8m0,
       .y = h.codes,
       .scale = h.scale.slice(1, 0, n)}
  );
  fp8_block_gemm(exec, {.x = h.codes, .x_scale = h.scale, .w = expert_of(args.down, e), .y = out});
}

void multiply(Exec& exec, const Tensor& x, const QTensor& weight, const Tensor& y) {
  if (has_channel_scales(weight)) {
    w8a8_gemm(exec, {.x = x, .w = weight, .y = y});
  } else {
    bf16_gemm(exec, {.x = x, .weight = weight.data, .y = y});
  }
}

// The tokens of one expert, in order of their slots: x rows gathered, out [n, C].
void run_expert(
    Exec& exec, const GroupedMoe& args, int64_t e, const int32_t* slots, const Tensor& out
) {
  const int64_t n = out.dim(0), k = args.ids.dim(1), C = args.x.dim(1), I = args.down.data.dim(2);
  Workspace::Mark mark(*exec.workspace);
  const Tensor x = exec.workspace->alloc(args.x.dtype, {n, C});
  const DType inner = has_channel_scales(args.down) ? DType::f32 : args.x.dtype;
  const Tensor gate_up = exec.workspace->alloc(inner, {n, 2 * I});
  const Tensor h = exec.workspace->alloc(inner, {n, I});
  const auto row_bytes = static_cast<size_t>(bytes_of(x.dtype, C));
  for (int64_t i = 0; i < n; ++i)
    std::memcpy(x.row(i).data, args.x.row(slots[i] / k).data, row_bytes);
  multiply(exec, x, expert_of(args.gate_up, e), gate_up);
  silu_mul(exec, {.gate = gate_up.slice(1, 0, I), .up = gate_up.slice(1, I, I), .y = h});
  multiply(exec, h, expert_of(args.down, e), out);
}

// y of token t from the rows of its slots, by way of sum [C].
void sum_slots(
    const GroupedMoe& args, int64_t t, const Tensor& rows, const int32_t* places, float* sum
) {
  const int64_t k = args.ids.dim(1), C = args.x.dim(1);
  std::fill_n(sum, C, 0.0f);
  for (int64_t s = 0; s < k; ++s) {
    if (places[t * k + s] < 0) continue;
    const float* row = rows.row(places[t * k + s]).as<float>();
    const float weight = args.weights.row(t).as<float>()[s];
    for (int64_t c = 0; c < C; ++c) sum[c] += weight * row[c];
  }
  for (int64_t c = 0; c < C; ++c) {
    float v = args.scale * sum[c];
    if (args.addend.defined()) v += load_element(args.addend.row(t), c);
    store_element(args.y.row(t), c, v);
  }
}

// At most `most` tokens of an expert are multiplied together.
void multiply_experts(Exec& exec, const GroupedMoe& args, int64_t most) {
  const int64_t T = args.x.dim(0), C = args.x.dim(1), E = args.gate_up.data.dim(0);
  Workspace::Mark mark(*exec.workspace);
  const MoeAlign align = moe_align(exec, args.ids, E);
  const auto* begin = align.begin.as<int32_t>();
  const Tensor rows = exec.workspace->alloc(DType::f32, {begin[E], C});
  const bool fp8 = args.gate_up.data.dtype == DType::f8e4m3x32 && !has_channel_scales(args.gate_up);
  Quantised x;
  if (fp8) {
    x = alloc_quantised(exec, T, C);
    fused_quant(
        exec, {.x = args.x, .ue8m0 = args.ue8m0, .y = x.codes, .scale = x.scale.slice(1, 0, T)}
    );
  }
  for (int64_t e = 0; e < E; ++e) {
    for (int64_t i = begin[e]; i < begin[e + 1]; i += most) {
      const int32_t* slots = align.slots.as<int32_t>() + i;
      const Tensor out = rows.slice(0, i, std::min<int64_t>(most, begin[e + 1] - i));
      if (fp8) {
        run_fp8_expert(exec, args, e, slots, x, out);
      } else {
        run_expert(exec, args, e, slots, out);
      }
    }
  }
  const Tensor sums = exec.workspace->alloc(DType::f32, {exec.threads(), C});
  exec.on_threads([&](int thread, int used) {
    const Range range = part(T, 1, thread, used);
    for (int64_t t = range.begin; t < range.end; ++t)
      sum_slots(args, t, rows, align.places.as<int32_t>(), sums.row(thread).as<float>());
  });
}

}  // namespace

void grouped_moe_gathered(Exec& exec, const GroupedMoe& args) {
  multiply_experts(exec, args, std::max<int64_t>(args.ids.elements(), 1));
}

void grouped_moe_by_token(Exec& exec, const GroupedMoe& args) {
  multiply_experts(exec, args, 1);
}

}  // namespace fathom::ops
