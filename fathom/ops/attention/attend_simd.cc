// gqa_decode and mha_prefill on vectors: an online softmax over blocks of 16 positions, aligned to
// absolute position, ascending; so a query's bits depend on its position and the cache alone. A
// block's keys are turned (positions become lanes) once for up to 16 queries of one key head. One
// source, compiled for AVX2, AVX-512 and NEON.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/attention/attend_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <limits>

#include "fathom/ops/attention/attend_simd.h"
#include "fathom/ops/element.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr int kBlock = 16;    // positions
constexpr int kQueries = 16;  // of one key head, at work together
constexpr int kParts = kBlock / kLanes;
constexpr int kChains = 4;  // independent sums of a score, added in order at the end

// What one thread keeps: some queries of one key head, one block of keys and values.
struct Scratch {
  alignas(64) float query[kQueries][kAttendMaxDim];
  alignas(64) float sum[kQueries][kAttendMaxDim];
  alignas(64) float turned[kAttendMaxDim][kBlock];  // keys: [D][position]
  alignas(64) float values[kBlock][kAttendMaxDim];
  float top[kQueries], total[kQueries];
};

// Tokens [token, token + tokens) of row b against key head g; query i is token i / G, head i % G.
struct Tile {
  int64_t b, token, tokens, position;  // position of the first token
  int64_t g, G;
  int64_t queries() const { return tokens * G; }
};

const int32_t* ints(const Tensor& t) {
  return t.as<int32_t>();
}

// One cached vector of `size` elements as float.
void decode(const Tensor& cache, int64_t page, int64_t g, int64_t slot, int64_t size, float* to) {
  const int64_t at = page * cache.stride(0) + g * cache.stride(1) + slot * cache.stride(2);
  for (int64_t i = 0; i < size; i += kLanes) {
    VF value;
    if (cache.dtype == DType::f32) {
      value = hn::LoadU(F32(), static_cast<const float*>(cache.data) + at + i);
    } else if (cache.dtype == DType::bf16) {
      value = load_bf16(static_cast<const uint16_t*>(cache.data) + at + i);
    } else {
      value = load_f16(static_cast<const uint16_t*>(cache.data) + at + i);
    }
    hn::Store(value, F32(), to + i);
  }
}

// Keys and values of positions [from, to); the rest of the block is zero.
void load_block(
    const PagedAttention& args, const Tile& tile, int64_t from, int64_t to, Scratch& s
) {
  const int64_t D = args.keys.dim(3), Dv = args.values.dim(3), p = args.keys.dim(2);
  const int32_t* pages = ints(args.rows.pages) + ints(args.rows.page_begin)[tile.b];
  alignas(64) float key[kAttendMaxDim];
  for (int64_t j = 0; j < kBlock; ++j) {
    const int64_t position = from + j;
    if (position < to) {
      const int64_t page = pages[position / p];
      decode(args.keys, page, tile.g, position % p, D, key);
      decode(args.values, page, tile.g, position % p, Dv, s.values[j]);
    } else {
      std::fill_n(key, D, 0.0f);
      std::fill_n(s.values[j], Dv, 0.0f);
    }
    for (int64_t i = 0; i < D; ++i) s.turned[i][j] = key[i];
  }
}

// scores[j] = query . key_j for the block.
HWY_NOINLINE void score_block(const float* query, const Scratch& s, int64_t D, float* scores) {
  const F32 d;
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    VF chain[kChains];
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) chain[c] = hn::Zero(d);
    for (int64_t i = 0; i < D; i += kChains) {
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c) {
        const VF keys = hn::Load(d, s.turned[i + c] + part * kLanes);
        chain[c] = hn::MulAdd(hn::Set(d, query[i + c]), keys, chain[c]);
      }
    }
    hn::Store((chain[0] + chain[1]) + (chain[2] + chain[3]), d, scores + part * kLanes);
  }
}

// sum = sum * decay + weights . values.
HWY_NOINLINE void add_values(
    float* sum, float decay, const float* weights, const Scratch& s, int64_t Dv
) {
  const F32 d;
  for (int64_t i = 0; i < Dv; i += kLanes) {
    VF acc = hn::Mul(hn::Load(d, sum + i), hn::Set(d, decay));
#pragma GCC unroll 16
    for (int j = 0; j < kBlock; ++j)
      acc = hn::MulAdd(hn::Set(d, weights[j]), hn::Load(d, s.values[j] + i), acc);
    hn::Store(acc, d, sum + i);
  }
}

// exp(scores - top) in place; their sum, in order of position.
float exponentiate(float* scores, float top) {
  const F32 d;
  for (int i = 0; i < kBlock; i += kLanes) {
    hn::Store(hn::Exp(d, hn::Load(d, scores + i) - hn::Set(d, top)), d, scores + i);
  }
  float total = 0;
  for (int j = 0; j < kBlock; ++j) total += scores[j];
  return total;
}

void add_block(const PagedAttention& args, const Tile& tile, int64_t from, Scratch& s) {
  alignas(64) float scores[kBlock];
  for (int64_t i = 0; i < tile.queries(); ++i) {
    const int64_t position = tile.position + i / tile.G;
    const int64_t first = args.window > 0 ? position - args.window + 1 : 0;
    if (from > position || from + kBlock <= first) continue;
    score_block(s.query[i], s, args.keys.dim(3), scores);
    float top = s.top[i];
    for (int j = 0; j < kBlock; ++j) {
      const bool seen = from + j <= position && from + j >= first;
      scores[j] = seen ? scores[j] * args.scale : kNothing;
      top = std::max(top, scores[j]);
    }
    const float decay = s.top[i] == kNothing ? 0.0f : std::exp(s.top[i] - top);
    s.total[i] = s.total[i] * decay + exponentiate(scores, top);
    add_values(s.sum[i], decay, scores, s, args.values.dim(3));
    s.top[i] = top;
  }
}

void run_tile(const PagedAttention& args, const Tile& tile, Scratch& s) {
  const int64_t D = args.keys.dim(3), Dv = args.values.dim(3);
  for (int64_t i = 0; i < tile.queries(); ++i) {
    const Tensor q = args.q.row(tile.token + i / tile.G).row(tile.g * tile.G + i % tile.G);
    for (int64_t k = 0; k < D; ++k) s.query[i][k] = load_element(q, k);
    std::fill_n(s.sum[i], Dv, 0.0f);
    const bool sink = args.sinks.defined();
    s.top[i] = sink ? args.sinks.as<float>()[tile.g * tile.G + i % tile.G] : kNothing;
    s.total[i] = sink ? 1.0f : 0.0f;
  }
  const int64_t to = tile.position + tile.tokens;
  const int64_t first = args.window > 0 ? std::max<int64_t>(0, tile.position - args.window + 1) : 0;
  for (int64_t from = first / kBlock * kBlock; from < to; from += kBlock) {
    load_block(args, tile, from, to, s);
    add_block(args, tile, from, s);
  }
  for (int64_t i = 0; i < tile.queries(); ++i) {
    const Tensor y = args.y.row(tile.token + i / tile.G).row(tile.g * tile.G + i % tile.G);
    for (int64_t k = 0; k < Dv; ++k) store_element(y, k, s.sum[i][k] / s.total[i]);
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
  return {.b = b, .token = token, .tokens = tokens, .position = position, .g = 0, .G = G};
}

}  // namespace

void attend(Exec& exec, const PagedAttention& args) {
  const int64_t Hkv = args.keys.dim(1), G = args.q.dim(1) / Hkv, B = args.rows.kv_len.dim(0);
  const int64_t each = std::max<int64_t>(1, kQueries / G);
  const int32_t* row_begin = ints(args.rows.row_begin);
  int64_t tiles = 0;
  for (int64_t b = 0; b < B; ++b) tiles += (row_begin[b + 1] - row_begin[b] + each - 1) / each;
  exec.parallel_for(tiles * Hkv, 1, [&](Range items) {
    Scratch s;
    for (int64_t i = items.begin; i < items.end; ++i) {
      Tile tile = tile_at(args, i / Hkv, each, G);
      tile.g = i % Hkv;
      run_tile(args, tile, s);
    }
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
