// mla_decode on vectors: an online softmax over blocks of 16 positions, aligned to absolute
// position, ascending; so a query's bits depend on its position and the cache alone. A block's rows
// are decoded once for up to 16 heads of neighbouring queries. One source, compiled for AVX2,
// AVX-512 and NEON.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/attention/mla_decode_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "fathom/ops/attention/mla_decode_rows.h"
#include "fathom/ops/simd/exp-inl.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr int kSums = 4;  // registers of a value product at once

// Rows of a score or value product at once.
constexpr int kTogether = kManyRegisters ? 4 : 2;

// What one thread keeps: some heads of some queries, one block of rows.
struct Scratch {
  alignas(64) float query[kMlaHeads][kMlaMaxRow];
  alignas(64) float sum[kMlaHeads][kMlaMaxRow];
  alignas(64) float decoded[kMlaBlock][kMlaMaxRow];
  const float* rows[kMlaBlock];  // in the cache, where that holds floats
  alignas(64) float scores[kMlaHeads][kMlaBlock];
  alignas(64) float codes[256];  // values of FP8 codes, where the cache holds them
  float decay[kMlaHeads];
  float top[kMlaHeads];
  float total[kMlaHeads];
};

// Consecutive queries of one row of the batch, and the heads at work. Lane i of the scratch is head
// i % heads of query i / heads.
struct Tile {
  int64_t t, tokens, row, position;  // of the first query
  int64_t masked;                    // position of bit 0 of the tree mask
  int64_t head, heads;
  int64_t lanes() const { return tokens * heads; }
};

// Where the keys that a query sees stand. A tree's are counted as if they followed one another, so
// that the query's bits are those of its path decoded alone.
struct Keys {
  int64_t count;    // behind the first keys of the sequence
  int64_t plain;    // the first so many stand at their own number
  int8_t step[64];  // then: how far behind `plain`
  int64_t position(int64_t key) const { return key < plain ? key : plain + step[key - plain]; }
};

int64_t at(const Tensor& t, int64_t i) {
  return t.as<int32_t>()[i];
}

// Of the tile's last query; those before it see one key less each.
Keys keys_of(const MlaDecode& args, const Tile& tile) {
  Keys keys;
  keys.count = keys.plain = std::max<int64_t>(tile.position + tile.tokens, 0);
  if (!args.tree_mask.defined()) return keys;
  keys.count = keys.plain = tile.masked;
  const int64_t last = at(args.rows.kv_len, tile.row) - tile.masked;
  for (int64_t bit = 0; bit < last; ++bit) {
    if ((args.tree_mask.as<int64_t>()[tile.t] >> bit & 1) != 0)
      keys.step[keys.count++ - keys.plain] = static_cast<int8_t>(bit);
  }
  return keys;
}

// scores[i][j] = query i . rows[j] for n lanes from `lane` on, four rows at a time; `size` is a
// multiple of the lanes of a vector.
template <int n>
HWY_NOINLINE void score_rows(Scratch& s, int64_t lane, int64_t size) {
  const F32 d;
  constexpr int kRows = 4;
  for (int j = 0; j < kMlaBlock; j += kRows) {
    VF sums[n][kRows];
#pragma GCC unroll 16
    for (int i = 0; i < n * kRows; ++i) sums[i / kRows][i % kRows] = hn::Zero(d);
    for (int64_t k = 0; k < size; k += kLanes) {
      VF row[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) row[r] = hn::LoadU(d, s.rows[j + r] + k);
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i) {
        const VF q = hn::Load(d, s.query[lane + i] + k);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sums[i][r] = hn::MulAdd(q, row[r], sums[i][r]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < n * kRows; ++i)
      s.scores[lane + i / kRows][j + i % kRows] =
          hn::GetLane(hn::SumOfLanes(d, sums[i / kRows][i % kRows]));
  }
}

// sum = sum * decay + scores . rows over the first L columns, for n lanes from `lane` on.
template <int n>
HWY_NOINLINE void add_rows(Scratch& s, int64_t lane, int64_t L) {
  const F32 d;
  for (int64_t k = 0; k < L; k += kSums * kLanes) {
    VF sums[n][kSums];
#pragma GCC unroll 16
    for (int i = 0; i < n * kSums; ++i)
      sums[i / kSums][i % kSums] = hn::Mul(
          hn::Load(d, s.sum[lane + i / kSums] + k + i % kSums * kLanes),
          hn::Set(d, s.decay[lane + i / kSums])
      );
    for (int j = 0; j < kMlaBlock; ++j) {
      VF row[kSums];
#pragma GCC unroll 4
      for (int v = 0; v < kSums; ++v) row[v] = hn::LoadU(d, s.rows[j] + k + v * kLanes);
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i) {
        const VF weight = hn::Set(d, s.scores[lane + i][j]);
#pragma GCC unroll 4
        for (int v = 0; v < kSums; ++v) sums[i][v] = hn::MulAdd(weight, row[v], sums[i][v]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < n * kSums; ++i)
      hn::Store(sums[i / kSums][i % kSums], d, s.sum[lane + i / kSums] + k + i % kSums * kLanes);
  }
}

// n values from element `offset` of a float tensor on.
void load_floats(const Tensor& from, int64_t offset, int64_t n, float* to) {
  if (from.dtype == DType::f32) {
    std::copy_n(static_cast<const float*>(from.data) + offset, n, to);
    return;
  }
  const uint16_t* bits = static_cast<const uint16_t*>(from.data) + offset;
  for (int64_t i = 0; i < n; i += kLanes) hn::StoreU(load_bf16(bits + i), F32(), to + i);
}

// load_mla_row on vectors.
void load_row(const Tensor& kv, int64_t offset, int64_t L, int64_t R, Scratch& s, float* to) {
  if (kv.dtype != DType::u8) return load_floats(kv, offset, L + R, to);
  const hn::Rebind<uint8_t, F32> codes;
  const uint8_t* bytes = kv.as<uint8_t>() + offset;
  for (int64_t i = 0; i < L; i += kLanes) {
    float scale;
    std::memcpy(&scale, bytes + L + i / 128 * 4, sizeof(scale));
    const VI code = hn::PromoteTo(I32(), hn::LoadU(codes, bytes + i));
    hn::Store(hn::GatherIndex(F32(), s.codes, code) * hn::Set(F32(), scale), F32(), to + i);
  }
  const uint8_t* rope = bytes + L + L / 128 * 4;
  for (int64_t i = 0; i < R; i += kLanes)
    hn::Store(load_bf16(reinterpret_cast<const uint16_t*>(rope) + i), F32(), to + L + i);
}

// Rows of keys [from, from + block); what is behind the last is zero.
void load_block(
    const MlaDecode& args, const Tile& tile, const Keys& keys, int64_t from, Scratch& s
) {
  const int64_t L = args.q_latent.dim(2), R = args.q_rope.dim(2), p = args.kv.dim(1);
  for (int64_t j = 0; j < kMlaBlock; ++j) {
    float* row = s.decoded[j];
    s.rows[j] = row;
    if (from + j >= keys.count) {
      std::fill_n(row, L + R, 0.0f);
      continue;
    }
    const int64_t position = keys.position(from + j);
    const int64_t page = at(args.rows.pages, at(args.rows.page_begin, tile.row) + position / p);
    const int64_t offset = page * args.kv.stride(0) + position % p * args.kv.stride(1);
    if (args.kv.dtype == DType::f32) {
      s.rows[j] = static_cast<const float*>(args.kv.data) + offset;
    } else {
      load_row(args.kv, offset, L, R, s, row);
    }
  }
}

// Calls f<n>(lane) for lanes [from, to), as many as are worked on together.
template <class Many, class One>
void for_lanes(int64_t from, int64_t to, const Many& many, const One& one) {
  for (; from + kTogether <= to; from += kTogether) many(from);
  for (; from < to; ++from) one(from);
}

// The block's scores of one lane, of which it sees [low, high), become weights.
void soften(Scratch& s, int64_t lane, int64_t low, int64_t high, float scale) {
  const F32 d;
  float* scores = s.scores[lane];
  const VF first = hn::Set(d, static_cast<float>(std::max<int64_t>(low, 0)));
  const VF end = hn::Set(d, static_cast<float>(std::min<int64_t>(high, kMlaBlock)));
  const auto seen = [&](int64_t j) {
    const VF number = hn::Iota(d, static_cast<float>(j));
    return hn::And(number >= first, number < end);
  };
  VF most = hn::Set(d, s.top[lane]);
  for (int64_t j = 0; j < kMlaBlock; j += kLanes) {
    const VF score = hn::Load(d, scores + j) * hn::Set(d, scale);
    const VF masked = hn::IfThenElse(seen(j), score, hn::Set(d, kNothing));
    hn::Store(score, d, scores + j);
    most = hn::Max(masked, most);
  }
  const float top = hn::GetLane(hn::MaxOfLanes(d, most));
  VF sum = hn::Zero(d);
  for (int64_t j = 0; j < kMlaBlock; j += kLanes) {
    const VF weight = exponential(hn::Load(d, scores + j) - hn::Set(d, top));
    const VF masked = hn::IfThenElseZero(seen(j), weight);
    hn::Store(masked, d, scores + j);
    sum = sum + masked;
  }
  s.decay[lane] = std::exp(s.top[lane] - top);
  s.total[lane] = s.total[lane] * s.decay[lane] + hn::GetLane(hn::SumOfLanes(d, sum));
  s.top[lane] = top;
}

void add_block(
    const MlaDecode& args, const Tile& tile, const Keys& keys, int64_t from, Scratch& s
) {
  const int64_t L = args.q_latent.dim(2), R = args.q_rope.dim(2), lanes = tile.lanes();
  const auto count = [&](int64_t lane) { return keys.count - tile.tokens + 1 + lane / tile.heads; };
  // The queries that see something of the block are the last ones.
  int64_t first = 0;
  while (first < lanes && count(first) <= std::max(from, args.first)) first += tile.heads;
  for_lanes(
      first,
      lanes,
      [&](int64_t lane) { score_rows<kTogether>(s, lane, L + R); },
      [&](int64_t lane) { score_rows<1>(s, lane, L + R); }
  );
  for (int64_t lane = first; lane < lanes; ++lane)
    soften(s, lane, args.first - from, count(lane) - from, args.scale);
  for_lanes(
      first,
      lanes,
      [&](int64_t lane) { add_rows<kTogether>(s, lane, L); },
      [&](int64_t lane) { add_rows<1>(s, lane, L); }
  );
}

void start_lane(const MlaDecode& args, const Tile& tile, int64_t lane, Scratch& s) {
  const int64_t L = args.q_latent.dim(2), R = args.q_rope.dim(2);
  const int64_t t = tile.t + lane / tile.heads, h = tile.head + lane % tile.heads;
  load_floats(args.q_latent.row(t).row(h), 0, L, s.query[lane]);
  load_floats(args.q_rope.row(t).row(h), 0, R, s.query[lane] + L);
  std::fill_n(s.sum[lane], L, 0.0f);
  s.top[lane] = kNothing;
  s.total[lane] = 0;
}

void store_lane(const MlaDecode& args, const Tile& tile, int64_t lane, const Scratch& s) {
  const int64_t t = tile.t + lane / tile.heads, h = tile.head + lane % tile.heads;
  const Tensor out = args.out.row(t).row(h);
  const float total = s.total[lane];
  const VF divisor = hn::Set(F32(), total > 0 ? total : 1.0f);
  for (int64_t i = 0; i < out.dim(0); i += kLanes) {
    const VF value = hn::Load(F32(), s.sum[lane] + i) / divisor;
    if (out.dtype == DType::f32)
      hn::StoreU(value, F32(), static_cast<float*>(out.data) + i);
    else
      store_bf16(value, static_cast<uint16_t*>(out.data) + i);
  }
  if (args.lse.defined()) args.lse.row(t).as<float>()[h] = s.top[lane] + std::log(total);
}

void run_tile(const MlaDecode& args, const Tile& tile, Scratch& s) {
  for (int64_t lane = 0; lane < tile.lanes(); ++lane) start_lane(args, tile, lane, s);
  const Keys keys = keys_of(args, tile);
  const int64_t first = args.first / kMlaBlock * kMlaBlock;  // nothing is seen before it
  for (int64_t from = first; from < keys.count; from += kMlaBlock) {
    load_block(args, tile, keys, from, s);
    add_block(args, tile, keys, from, s);
  }
  for (int64_t lane = 0; lane < tile.lanes(); ++lane) store_lane(args, tile, lane, s);
}

// Tiles of at most `each` queries, row after row.
class Tiles {
 public:
  Tiles(const MlaDecode& args, int64_t each) : args_(args), each_(each) {}

  int64_t count() const {
    int64_t sum = 0;
    for (int64_t b = 0; b < args_.rows.kv_len.dim(0); ++b) sum += of_row(b);
    return sum;
  }
  // Cheap when `i` rises.
  Tile operator()(int64_t i) {
    for (; i >= before_ + of_row(row_); ++row_) before_ += of_row(row_);
    const int64_t begin = at(args_.rows.row_begin, row_), end = at(args_.rows.row_begin, row_ + 1);
    const int64_t first = at(args_.rows.kv_len, row_) - (end - begin);
    const int64_t t = begin + (i - before_) * each_;
    return {
        .t = t,
        .tokens = std::min(each_, end - t),
        .row = row_,
        .position = first + t - begin,
        .masked = first - args_.mask_lead,
        .head = 0,
        .heads = 0};
  }

 private:
  int64_t of_row(int64_t b) const {
    return (at(args_.rows.row_begin, b + 1) - at(args_.rows.row_begin, b) + each_ - 1) / each_;
  }
  const MlaDecode& args_;
  int64_t each_, row_ = 0, before_ = 0;  // tiles before row_
};

}  // namespace

void mla_decode(Exec& exec, const MlaDecode& args) {
  const int64_t H = args.q_latent.dim(1);
  // Items are groups of heads of a tile, all of one size but the last. Queries of a tree see keys
  // of their own.
  const int64_t group = std::min<int64_t>(kMlaHeads, std::max<int64_t>(1, H / 2));
  const int64_t groups = (H + group - 1) / group;
  const int64_t each = args.tree_mask.defined() ? 1 : kMlaHeads / group;
  exec.parallel_for(Tiles(args, each).count() * groups, 1, [&](Range items) {
    Scratch s;
    if (args.kv.dtype == DType::u8) {
      for (int code = 0; code < 256; ++code)
        s.codes[code] = f8e4m3_to_float(static_cast<uint8_t>(code));
    }
    Tiles tiles(args, each);
    for (int64_t i = items.begin; i < items.end; ++i) {
      Tile tile = tiles(i / groups);
      tile.head = i % groups * group;
      tile.heads = std::min(group, H - tile.head);
      run_tile(args, tile, s);
    }
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
