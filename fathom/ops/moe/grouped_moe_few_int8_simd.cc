// grouped_moe of few tokens on packed int8 weights, which pass through the caches once: a first
// parallel run over blocks of the inner size of all active experts (gate, up, SwiGLU), a second
// that rounds the inner rows, which have one scale each, and a third over rows of the output, each
// adding up its experts in ascending order. The sums are those of `gathered`, bit for bit.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/moe/grouped_moe_few_int8_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/gemm/int8_tokens-inl.h"
#include "fathom/ops/gemm/token_tiles-inl.h"
#include "fathom/ops/moe/grouped_moe_few-inl.h"
#include "fathom/ops/moe/grouped_moe_rows.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kInnerRows = kMoeInt8Rows;  // of the inner size, that one item of work computes
static_assert(kOutRows == kMoeInt8Rows);

// The product of one step, in the workspace. Rounded rows of an expert begin at a tile.
struct Job {
  FewSlots slots;
  int64_t* places = nullptr;  // of the first rounded row of each active expert
  float* h = nullptr;         // [count, I]
  Int8Tokens x = {}, rounded = {};
};

// out[i, r] = row `row` + r of w times token i of `tokens`, for r < width.
void multiply(
    const QTensor& w, int64_t row, const Int8Tokens& x, Range tokens, int64_t width, float* out
) {
  constexpr int kVectors = 2, kRows = kVectors * kLanes;
  for (int64_t r = 0; r < width; r += kRows) {
    bool streams = true;
    for_tiles<kInt8Tile>(tokens.begin, tokens.end, [&](auto count, int64_t m) {
      HWY_ALIGN float tile[count() * kRows];
      multiply_int8_tile<count(), kVectors>(w, (row + r) / kLanes, x, m, streams, tile);
      for (int t = 0; t < count(); ++t)
        std::copy_n(tile + t * kRows, kRows, out + (m - tokens.begin + t) * width + r);
      streams = false;
    });
  }
}

QTensor expert_of(const QTensor& stack, int64_t e) {
  return {.data = stack.data.row(e), .scale = stack.scale.row(e)};
}

Range rounded_rows(const Job& job, int64_t a) {
  return {job.places[a], job.places[a] + job.slots.tokens(a)};
}

// Rounds the row of each slot, which `row(i)` gives.
template <class Row>
void round_slots(Exec& exec, const Job& job, int64_t K, const Int8Tokens& to, const Row& row) {
  const FewSlots& s = job.slots;
  exec.parallel_for(s.experts, 1, [&](Range some) {
    for (int64_t a = some.begin; a < some.end; ++a) {
      for (int64_t i = 0; i < s.tokens(a); ++i)
        round_token(row(s.first(a) + i), K, job.places[a] + i, to);
    }
  });
}

// Rows [n, n + kInnerRows) of h of active expert a; tiles hold [tokens, kInnerRows] twice.
void inner_rows(const Job& job, int64_t a, int64_t n, float* gate, float* up) {
  const FewSlots& s = job.slots;
  const int64_t I = s.args.down.data.dim(2);
  const QTensor w = expert_of(s.args.gate_up, s.active[a]);
  multiply(w, n, job.x, rounded_rows(job, a), kInnerRows, gate);
  multiply(w, I + n, job.x, rounded_rows(job, a), kInnerRows, up);
  swiglu(gate, up, s.tokens(a) * kInnerRows);
  for (int64_t i = 0; i < s.tokens(a); ++i)
    std::copy_n(gate + i * kInnerRows, kInnerRows, job.h + (s.first(a) + i) * I + n);
}

// Columns [c, c + kOutRows) of y; sums [T, kOutRows], out [most tokens of an expert, kOutRows].
void output_rows(const Job& job, int64_t c, float* sums, float* out) {
  const FewSlots& s = job.slots;
  std::fill_n(sums, s.args.x.dim(0) * kOutRows, 0.0f);
  for (int64_t a = 0; a < s.experts; ++a) {
    const QTensor w = expert_of(s.args.down, s.active[a]);
    multiply(w, c, job.rounded, rounded_rows(job, a), kOutRows, out);
    add_outputs(s, a, out, sums);
  }
  store_outputs(s.args, c, sums);
}

Job make_job(Exec& exec, const GroupedMoe& args) {
  Job job{.slots = FewSlots::of(exec, args)};
  const FewSlots& s = job.slots;
  const int64_t C = args.x.dim(1), I = args.down.data.dim(2);
  job.places = exec.workspace->alloc(DType::i64, {std::max<int64_t>(s.experts, 1)}).as<int64_t>();
  int64_t rows = 0;
  for (int64_t a = 0; a < s.experts; ++a) {
    job.places[a] = rows;
    rows += (s.tokens(a) + kInt8Tile - 1) / kInt8Tile * kInt8Tile;
  }
  job.h = exec.workspace->alloc(DType::f32, {s.count * I}).as<float>();
  job.x = Int8TokenMemory(exec, 1, rows, C).of(0);
  job.rounded = Int8TokenMemory(exec, 1, rows, I).of(0);
  return job;
}

}  // namespace

void grouped_moe_few_int8(Exec& exec, const GroupedMoe& args) {
  const int64_t T = args.x.dim(0), C = args.x.dim(1), I = args.down.data.dim(2);
  Workspace::Mark mark(*exec.workspace);
  const Job job = make_job(exec, args);
  const FewSlots& s = job.slots;
  round_slots(exec, job, C, job.x, [&](int64_t i) {
    return element<float>(args.x, s.token_of(i) * args.x.stride(0));
  });
  // Of each thread, for both runs: two tiles of the tokens of an expert, or of all.
  const int64_t most = std::max({T, s.most_tokens, int64_t{1}});
  const Tensor tiles = exec.workspace->alloc(DType::f32, {exec.threads(), 2 * most * kOutRows});
  const int64_t blocks = I / kInnerRows;
  SharedRanges inner(s.experts * blocks, 1, exec.threads());
  exec.on_threads([&](int thread, int) {
    float* tile = tiles.row(thread).as<float>();
    for (Range items; inner.take(thread, items);) {
      for (int64_t i = items.begin; i < items.end; ++i)
        inner_rows(job, i / blocks, i % blocks * kInnerRows, tile, tile + most * kInnerRows);
    }
  });
  round_slots(exec, job, I, job.rounded, [&](int64_t i) { return job.h + i * I; });
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
