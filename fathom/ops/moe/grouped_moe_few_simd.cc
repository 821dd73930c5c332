// grouped_moe of few tokens on packed FP8 weights, which pass through the caches once: a first
// parallel run over blocks of 128 of the inner size of all active experts (gate, up, SwiGLU,
// quantisation), a second over rows of the output, each adding up its experts in ascending order.
// The sums are those of `gathered`, bit for bit.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/moe/grouped_moe_few_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/gemm/fp8_panel-inl.h"
#include "fathom/ops/gemm/token_tiles-inl.h"
#include "fathom/ops/moe/grouped_moe_few-inl.h"
#include "fathom/ops/moe/grouped_moe_rows.h"
#include "fathom/ops/quant/fused_quant.h"
#include "fathom/ops/simd/fp8-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

// Rows that are multiplied together: x [n, K], scale[b * stride + i] of block b of row i.
struct Operand {
  const Fp8Activation* x;
  const float* scale;
  int64_t stride;
  int64_t n;
};

// Rows [begin, begin + width) of a matrix, width a multiple of 4 vectors, and the codes that come
// after them.
struct Weights {
  const Fp8Panels& w;
  int64_t begin, width;
  const uint8_t* next;
};

template <int kTokens, int kVectors>
void multiply_tile(const Weights& rows, int64_t r, const Operand& in, int64_t m, float* out) {
  HWY_ALIGN float tile[kTokens * kVectors * kLanes];
  const Fp8Panels& w = rows.w;
  const int64_t row = rows.begin + r, after = r + kVectors * kLanes;
  const uint8_t* next = after < rows.width ? w.row_at(rows.begin + after) : rows.next;
  multiply_fp8<kTokens, kVectors>(w, row, in.x + m * w.K, in.scale + m, in.stride, next, tile);
  for (int t = 0; t < kTokens; ++t) {
    for (int v = 0; v < kVectors; ++v) {
      const int at = (t * kVectors + v) * kLanes;
      hn::Store(hn::Load(F32(), tile + at), F32(), out + (m + t) * rows.width + r + v * kLanes);
    }
  }
}

// out[i, r] = row r of the rows times row i of `in`.
void multiply(const Weights& rows, const Operand& in, float* out) {
  if (in.n <= kFp8WideTokens) {
    for (int64_t r = 0; r < rows.width; r += kFp8Wide * kLanes) {
      for_tiles<kFp8WideTokens>(0, in.n, [&](auto tokens, int64_t m) {
        multiply_tile<tokens(), kFp8Wide>(rows, r, in, m, out);
      });
    }
    return;
  }
  for (int64_t r = 0; r < rows.width; r += kFp8Narrow * kLanes) {
    for_tiles<4>(0, in.n, [&](auto tokens, int64_t m) {
      multiply_tile<tokens(), kFp8Narrow>(rows, r, in, m, out);
    });
  }
}

// The product of one step, in the workspace.
struct Job {
  FewSlots slots;
  Fp8Activation *x = nullptr, *h = nullptr;      // [count, C], [count, I]
  float *x_scale = nullptr, *h_scale = nullptr;  // [C / 128, count], [I / 128, count]

  Operand rows(const Fp8Activation* values, int64_t K, const float* scale, int64_t a) const {
    const int64_t first = slots.first(a);
    return {values + first * K, scale + first, slots.count, slots.tokens(a)};
  }
};

Fp8Panels panels_of(const QTensor& stack, int64_t e) {
  return {
      .codes = stack.data.row(e).as<uint8_t>(),
      .scale = stack.scale.row(e).as<float>(),
      .scale_stride = stack.scale.stride(1),
      .K = stack.data.dim(2),
  };
}

// The rows of the slots, quantised.
void prepare(Exec& exec, Job& job) {
  const GroupedMoe& args = job.slots.args;
  const int64_t T = args.x.dim(0), C = args.x.dim(1), count = job.slots.count;
  Workspace::Mark mark(*exec.workspace);
  const Tensor codes = exec.workspace->alloc(DType::f8e4m3, {T, C});
  const Tensor scale = exec.workspace->alloc(DType::f32, {C / kFp8Block, T});
  fused_quant(exec, {.x = args.x, .ue8m0 = args.ue8m0, .y = codes, .scale = scale});
  for (int64_t i = 0; i < count; ++i) {
    const int64_t t = job.slots.token_of(i);
    fp8_activations(codes.row(t).as<uint8_t>(), C, job.x + i * C);
    for (int64_t b = 0; b < C / kFp8Block; ++b)
      job.x_scale[b * count + i] = scale.row(b).as<float>()[t];
  }
}

// Block `item` % (I / 128) of 128 of h of active expert `item` / (I / 128); tiles hold [tokens,
// 128] twice.
void inner_block(const Job& job, int64_t item, float* gate, float* up) {
  const GroupedMoe& args = job.slots.args;
  const int64_t C = args.x.dim(1), I = args.down.data.dim(2), blocks = I / kFp8Block;
  const int64_t a = item / blocks, b = item % blocks, first = job.slots.first(a);
  const int64_t then = std::min(item + 1, job.slots.experts * blocks - 1);
  const Fp8Panels w = panels_of(args.gate_up, job.slots.active[a]);
  const Fp8Panels after = panels_of(args.gate_up, job.slots.active[then / blocks]);
  const Operand in = job.rows(job.x, C, job.x_scale, a);
  const int64_t gates = b * kFp8Block, ups = I + gates;
  multiply({w, gates, kFp8Block, w.row_at(ups)}, in, gate);
  multiply({w, ups, kFp8Block, after.row_at(then % blocks * kFp8Block)}, in, up);
  for (int64_t i = 0; i < in.n; ++i) {
    float* g = gate + i * kFp8Block;
    swiglu(g, up + i * kFp8Block, kFp8Block);
    alignas(64) uint8_t codes[kFp8Block];
    job.h_scale[b * job.slots.count + first + i] = quantise_group(g, 1e-10f, args.ue8m0, codes);
    fp8_activations(codes, kFp8Block, job.h + (first + i) * I + b * kFp8Block);
  }
}

// Rows [c, c + 64) of all tokens' outputs; sums [T, 64], out [most tokens of an expert, 64].
void output_rows(const Job& job, int64_t c, float* sums, float* out) {
  const GroupedMoe& args = job.slots.args;
  const int64_t T = args.x.dim(0), I = args.down.data.dim(2);
  std::fill_n(sums, T * kOutRows, 0.0f);
  for (int64_t a = 0; a < job.slots.experts; ++a) {
    const bool last = a + 1 == job.slots.experts;
    const Fp8Panels w = panels_of(args.down, job.slots.active[a]);
    const Fp8Panels after = panels_of(args.down, job.slots.active[last ? 0 : a + 1]);
    const int64_t then = last ? std::min(c + kOutRows, args.x.dim(1) - kOutRows) : c;
    const Operand in = job.rows(job.h, I, job.h_scale, a);
    multiply({w, c, kOutRows, after.row_at(then)}, in, out);
    add_outputs(job.slots, a, out, sums);
  }
  store_outputs(args, c, sums);
}

// Puts the step's slots in order and lays out what both runs share.
Job make_job(Exec& exec, const GroupedMoe& args) {
  Job job{.slots = FewSlots::of(exec, args)};
  const int64_t count = job.slots.count;
  const int64_t C = args.x.dim(1), I = args.down.data.dim(2);
  const DType dtype = sizeof(Fp8Activation) == 2 ? DType::bf16 : DType::f32;
  const auto values = [&](int64_t size) {
    return static_cast<Fp8Activation*>(exec.workspace->alloc(dtype, {size}).data);
  };
  const auto floats = [&](int64_t size) {
    return exec.workspace->alloc(DType::f32, {size}).as<float>();
  };
  job.x = values(count * C);
  job.h = values(count * I);
  job.x_scale = floats(count * C / kFp8Block);
  job.h_scale = floats(count * I / kFp8Block);
  return job;
}

}  // namespace

void grouped_moe_few_fp8(Exec& exec, const GroupedMoe& args) {
  const int64_t T = args.x.dim(0), C = args.x.dim(1), I = args.down.data.dim(2);
  Workspace::Mark mark(*exec.workspace);
  Job job = make_job(exec, args);
  prepare(exec, job);
  // Of each thread, for both runs: two tiles of the tokens of an expert, or of all.
  const int64_t most = std::max({T, job.slots.most_tokens, int64_t{1}});
  const Tensor tiles = exec.workspace->alloc(DType::f32, {exec.threads(), 2 * most * kFp8Block});
  SharedRanges inner(job.slots.experts * (I / kFp8Block), 1, exec.threads());
  exec.on_threads([&](int thread, int) {
    float* tile = tiles.row(thread).as<float>();
    for (Range items; inner.take(thread, items);) {
      for (int64_t i = items.begin; i < items.end; ++i)
        inner_block(job, i, tile, tile + most * kFp8Block);
    }
  });
  SharedRanges outer(C, kOutRows, exec.threads());
  exec.on_threads([&](int thread, int) {
    float* tile = tiles.row(thread).as<float>();
    for (Range rows; outer.take(thread, rows);) {
      for (int64_t c = rows.begin; c < rows.end; c += kOutRows)
        output_rows(job, c, tile, tile + T * kOutRows);
    }
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
