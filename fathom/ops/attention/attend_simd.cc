// gqa_decode and mha_prefill on vectors (attend_tile-inl.h). Rows of one token are cut into spans
// of positions that threads share; longer rows into tiles of queries that share turned keys. Both
// join spans alike. One source, compiled for AVX2, AVX-512 and NEON.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/attention/attend_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include <cmath>

#include "fathom/ops/attention/attend_tile-inl.h"
#include "fathom/ops/element.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

// Tokens [token, token + tokens) of row b against key head g; query i is token i / G, head i % G.
struct Tile {
  int64_t b, token, tokens, position;  // position of the first token
  int64_t end;                         // positions [0, end) are seen by some query
  int64_t g, G;
  int64_t queries() const { return tokens * G; }
};

const int32_t* ints(const Tensor& t) {
  return t.as<int32_t>();
}

CachedHead head_of(const PagedAttention& args, const Tensor& cache, const Tile& tile) {
  return {cache, ints(args.rows.pages) + ints(args.rows.page_begin)[tile.b], tile.g};
}

// First position that the query at `position` sees.
int64_t first_seen(const PagedAttention& args, int64_t position) {
  return args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
}

void load_queries(const PagedAttention& args, const Tile& tile, AttendScratch& s) {
  const int64_t D = args.keys.dim(3);
  const bool is_f32 = args.q.dtype == DType::f32;
  for (int64_t i = 0; i < tile.queries(); ++i) {
    const int64_t element = (tile.token + i / tile.G) * args.q.stride(0) +
                            (tile.g * tile.G + i % tile.G) * args.q.stride(1);
    const uint8_t* row = static_cast<const uint8_t*>(args.q.data) + element * (is_f32 ? 4 : 2);
    for (int64_t k = 0; k < D; k += kLanes) {
      const VF value = is_f32 ? load_cached<DType::f32>(row, k) : load_cached<DType::bf16>(row, k);
      hn::Store(value, F32(), s.query + i * D + k);
    }
  }
}

// The keys that this thread will read after this span's values.
struct NextKeys {
  CachedHead keys;
  int64_t span, end;  // positions [span, end)
};

// Softmax and weighted values of all queries over the positions [span, span + kSpan) that exist.
template <DType kType>
void attend_span(
    const PagedAttention& args,
    const Tile& tile,
    int64_t span,
    const NextKeys& next,
    AttendScratch& s
) {
  const int64_t D = args.keys.dim(3), Dv = args.values.dim(3), queries = tile.queries();
  const int64_t to = std::min(span + kSpan, tile.end);
  const CachedHead keys = head_of(args, args.keys, tile);
  const CachedHead values = head_of(args, args.values, tile);
  // Blocks that no query of the tile sees are not read.
  const int64_t begin = std::max(span, first_seen(args, tile.position) / kBlock * kBlock);
  for (int64_t from = begin; from < to; from += kBlock) {
    const int64_t here = std::min<int64_t>(kBlock, to - from);
    turn_keys<kType>(keys, from, here, Ahead(values, from, kBlock, to), s.keys);
    float* scores = s.scores + (from - span);
    for_rows(queries, [&](auto rows, int64_t first) {
      score_block<rows()>(s.query + first * D, s.keys, D, scores + first * kSpan);
    });
  }
  const int64_t skipped = begin - span, n = (to - begin + kBlock - 1) / kBlock * kBlock;
  for (int64_t i = 0; i < queries; ++i) {
    const int64_t position = tile.position + i / tile.G;
    const int64_t low = first_seen(args, position) - begin;
    const int64_t high = (args.causal ? position + 1 : tile.end) - begin;
    s.span_state[i] = soften(s.scores + i * kSpan + skipped, n, low, high, args.scale);
  }
  std::fill_n(s.span_sum, queries * Dv, 0.0f);
  for (int64_t from = begin; from < to; from += kBlock) {
    const int64_t here = std::min<int64_t>(kBlock, to - from);
    const Ahead ahead(next.keys, next.span + (from - span), kBlock, next.end);
    const float* weights = s.scores + (from - span);
    const auto add = [&](const auto& block) {
      for_rows(queries, [&](auto rows, int64_t first) {
        add_values<rows()>(weights + first * kSpan, block, here, Dv, s.span_sum + first * Dv);
      });
    };
    if (queries <= kMostRows) {  // they read the values once
      const uint8_t* rows[kBlock];
      values.find(from, here, rows);
      add(CachedValues<kType>{rows, ahead});
    } else {
      widen_values<kType>(values, from, here, ahead, s.values);
      add(WideValues{s.values, Dv});
    }
  }
}

void attend_any_span(
    const PagedAttention& args,
    const Tile& tile,
    int64_t span,
    const NextKeys& next,
    AttendScratch& s
) {
  switch (args.keys.dtype) {
    case DType::f32:
      return attend_span<DType::f32>(args, tile, span, next, s);
    case DType::bf16:
      return attend_span<DType::bf16>(args, tile, span, next, s);
    default:
      return attend_span<DType::f16>(args, tile, span, next, s);
  }
}

// A query before any position: a key without a value when there are sinks.
SoftmaxState start(const PagedAttention& args, int64_t head) {
  if (!args.sinks.defined()) return {};
  return {.top = args.sinks.as<float>()[head], .total = 1.0f};
}

// Head `head` of `token` in y [T, H, Dv]. A query that saw nothing has a sum of zeros.
void store_query(const Tensor& y, int64_t token, int64_t head, const float* sum, float total) {
  const int64_t element = token * y.stride(0) + head * y.stride(1);
  const VF divisor = hn::Set(F32(), total > 0 ? total : 1.0f);
  for (int64_t i = 0; i < y.dim(2); i += kLanes) {
    const VF value = hn::LoadU(F32(), sum + i) / divisor;
    if (y.dtype == DType::f32) {
      hn::StoreU(value, F32(), static_cast<float*>(y.data) + element + i);
    } else {
      store_bf16(value, static_cast<uint16_t*>(y.data) + element + i);
    }
  }
}

void run_tile(const PagedAttention& args, const Tile& tile, AttendScratch& s) {
  const int64_t Dv = args.values.dim(3);
  load_queries(args, tile, s);
  for (int64_t i = 0; i < tile.queries(); ++i)
    s.state[i] = start(args, tile.g * tile.G + i % tile.G);
  std::fill_n(s.sum, tile.queries() * Dv, 0.0f);
  const int64_t first = args.causal ? first_seen(args, tile.position) : 0;
  for (int64_t span = first / kSpan * kSpan; span < tile.end; span += kSpan) {
    const NextKeys next{head_of(args, args.keys, tile), span + kSpan, tile.end};
    attend_any_span(args, tile, span, next, s);
    for (int64_t i = 0; i < tile.queries(); ++i)
      join_span(s.state[i], s.sum + i * Dv, s.span_state[i], s.span_sum + i * Dv, Dv);
  }
  for (int64_t i = 0; i < tile.queries(); ++i) {
    const int64_t head = tile.g * tile.G + i % tile.G;
    store_query(args.y, tile.token + i / tile.G, head, s.sum + i * Dv, s.state[i].total);
    if (!args.lse.defined()) continue;
    const float lse = s.state[i].top + std::log(s.state[i].total);
    args.lse.row(tile.token + i / tile.G).as<float>()[head] = lse;
  }
}

// The item-th tile of `each` tokens, over all rows.
Tile tile_at(const PagedAttention& args, int64_t item, int64_t each, int64_t G) {
  const int32_t* row_begin = ints(args.rows.row_begin);
  int64_t b = 0;
  for (int64_t tiles; item >= (tiles = (row_begin[b + 1] - row_begin[b] + each - 1) / each); ++b)
    item -= tiles;
  const int64_t token = row_begin[b] + item * each;
  const int64_t position = ints(args.rows.kv_len)[b] - row_begin[b + 1] + token;
  const int64_t tokens = std::min<int64_t>(each, row_begin[b + 1] - token);
  const int64_t end = args.causal ? position + tokens : ints(args.rows.kv_len)[b];
  return {
      .b = b, .token = token, .tokens = tokens, .position = position, .end = end, .g = 0, .G = G};
}

void attend_tiles(Exec& exec, const PagedAttention& args) {
  const int64_t Hkv = args.keys.dim(1), G = args.q.dim(1) / Hkv, B = args.rows.kv_len.dim(0);
  const int64_t each = std::max<int64_t>(1, kQueries / G);
  const int32_t* row_begin = ints(args.rows.row_begin);
  int64_t tiles = 0;
  for (int64_t b = 0; b < B; ++b) tiles += (row_begin[b + 1] - row_begin[b] + each - 1) / each;
  // Later tiles see more positions: who has had the early ones takes of the others'.
  SharedRanges items(tiles * Hkv, 1, exec.threads());
  exec.on_threads([&](int thread, int) {
    AttendScratch s;
    for (Range range; items.take(thread, range);) {
      for (int64_t i = range.begin; i < range.end; ++i) {
        Tile tile = tile_at(args, i / Hkv, each, G);
        tile.g = i % Hkv;
        run_tile(args, tile, s);
      }
    }
  });
}

// One row's only token.
Tile token_of(const PagedAttention& args, int64_t b, int64_t g, int64_t G) {
  const int64_t token = ints(args.rows.row_begin)[b];
  const int64_t position = ints(args.rows.kv_len)[b] - 1;
  return {
      .b = b,
      .token = token,
      .tokens = 1,
      .position = position,
      .end = position + 1,
      .g = g,
      .G = G};
}

int64_t first_span(const PagedAttention& args, int64_t b) {
  return first_seen(args, ints(args.rows.kv_len)[b] - 1) / kSpan;
}
int64_t end_span(const PagedAttention& args, int64_t b) {
  return (ints(args.rows.kv_len)[b] + kSpan - 1) / kSpan;
}

// Single tokens: spans are computed in waves, kWave of them at once in any order, and joined in
// their own. Fixed scratch, however long the rows are.
constexpr int64_t kWave = 40;

class SingleTokens {
 public:
  SingleTokens(Exec& exec, const PagedAttention& args)
      : exec_(exec),
        args_(args),
        B_(args.rows.kv_len.dim(0)),
        H_(args.q.dim(1)),
        Hkv_(args.keys.dim(1)),
        Dv_(args.values.dim(3)),
        sums_(exec.workspace->alloc(DType::f32, {B_, H_ * Dv_})),
        states_(exec.workspace->alloc(DType::f32, {B_, H_ * 2})),
        span_sums_(exec.workspace->alloc(DType::f32, {kWave, H_ * Dv_})),
        span_states_(exec.workspace->alloc(DType::f32, {kWave, H_ * 2})) {}

  void run() {
    for (int64_t b = 0; b < B_; ++b) {
      std::fill_n(sums(sums_, b), H_ * Dv_, 0.0f);
      for (int64_t h = 0; h < H_; ++h) states(states_, b)[h] = start(args_, h);
    }
    int64_t b = 0, span = first_span(args_, 0);
    while (b < B_) {
      int64_t n = 0;
      for (; n < kWave && b < B_; ++n) {
        items_[n] = {b, span};
        if (++span == end_span(args_, b) && ++b < B_) span = first_span(args_, b);
      }
      SharedRanges items(n * Hkv_, 1, exec_.threads());
      exec_.on_threads([&](int thread, int) {
        AttendScratch s;
        for (Range range; items.take(thread, range);) compute(range, n, s);
      });
      // A few spans are joined faster than another thread is waited for.
      exec_.parallel_for(H_, n > 8 ? 3 : H_, [&](Range heads) { join(n, heads); });
    }
    for (b = 0; b < B_; ++b) {
      const int64_t token = ints(args_.rows.row_begin)[b];
      for (int64_t h = 0; h < H_; ++h)
        store_query(args_.y, token, h, sums(sums_, b) + h * Dv_, states(states_, b)[h].total);
    }
  }

 private:
  struct Item {
    int64_t b, span;
  };
  SoftmaxState* states(const Tensor& of, int64_t row) const {
    return static_cast<SoftmaxState*>(of.data) + row * H_;
  }
  float* sums(const Tensor& of, int64_t row) const {
    return static_cast<float*>(of.data) + row * H_ * Dv_;
  }
  // Items of the wave's n spans, one for each key head.
  void compute(Range range, int64_t n, AttendScratch& s) {
    const int64_t G = H_ / Hkv_;
    for (int64_t i = range.begin; i < range.end; ++i) {
      const int64_t item = i / Hkv_, g = i % Hkv_;
      const Tile tile = token_of(args_, items_[item].b, g, G);
      load_queries(args_, tile, s);
      const int64_t following = std::min(i + 1, n * Hkv_ - 1);
      const NextKeys next = next_keys(following / Hkv_, following % Hkv_);
      attend_any_span(args_, tile, items_[item].span * kSpan, next, s);
      std::copy_n(s.span_state, G, states(span_states_, item) + g * G);
      std::copy_n(s.span_sum, G * Dv_, sums(span_sums_, item) + g * G * Dv_);
    }
  }
  NextKeys next_keys(int64_t item, int64_t g) const {
    const Tile tile = token_of(args_, items_[item].b, g, H_ / Hkv_);
    return {head_of(args_, args_.keys, tile), items_[item].span * kSpan, tile.position + 1};
  }
  void join(int64_t n, Range heads) {
    for (int64_t item = 0; item < n; ++item) {
      SoftmaxState* state = states(states_, items_[item].b);
      const SoftmaxState* span = states(span_states_, item);
      for (int64_t h = heads.begin; h < heads.end; ++h) {
        float* sum = sums(sums_, items_[item].b) + h * Dv_;
        join_span(state[h], sum, span[h], sums(span_sums_, item) + h * Dv_, Dv_);
      }
    }
  }

  Exec& exec_;
  const PagedAttention& args_;
  int64_t B_, H_, Hkv_, Dv_;
  Tensor sums_, states_;            // of each row: [B, H * Dv], [B, H * 2] (top, total)
  Tensor span_sums_, span_states_;  // of each span of the wave
  Item items_[kWave];
};

}  // namespace

void attend(Exec& exec, const PagedAttention& args) {
  if (args.max_count <= 1 && args.causal && !args.lse.defined()) {
    Workspace::Mark mark(*exec.workspace);
    SingleTokens(exec, args).run();
  } else {
    attend_tiles(exec, args);
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
