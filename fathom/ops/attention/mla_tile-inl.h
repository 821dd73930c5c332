// What mla_decode's vector rows share: an online softmax over blocks of 16 positions, aligned to
// absolute position, ascending; so a query's bits depend on its position and the cache alone. A
// block's rows are read once for up to 16 heads of neighbouring queries: the lanes of a tile.
//
// How rows are kept and multiplied is the class Rows of a thread:
//   Rows(args, softmax)
//   start(lane, t, h)   takes the query, sum = 0
//   load(j, offset)     row j of the block: that element of the cache; negative: zeros
//   score<n>(lane, j)   softmax.scores of n lanes, of rows [j, j + kScoreRows)
//   add<n>(lane, k)     sum = sum * decay + weights . rows of n lanes, values [k, k + kAddValues)
//   finish(lane)        the sum, L values in order
// All lanes meet one part of a block before the next: parts are small enough for the first-level
// cache.
#if defined(FATHOM_OPS_ATTENTION_MLA_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_ATTENTION_MLA_TILE_INL_H_
#undef FATHOM_OPS_ATTENTION_MLA_TILE_INL_H_
#else
#define FATHOM_OPS_ATTENTION_MLA_TILE_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "fathom/ops/attention/mla_decode_rows.h"
#include "fathom/ops/simd/elements-inl.h"
#include "fathom/ops/simd/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// Consecutive queries of one row of the batch, and the heads at work. Lane i is head i % heads of
// query i / heads.
struct MlaTile {
  int64_t t, tokens, row, position;  // of the first query
  int64_t masked;                    // position of bit 0 of the tree mask
  int64_t head, heads;
  int64_t lanes() const { return tokens * heads; }
};

// Where the keys that a query sees stand. A tree's are counted as if they followed one another, so
// that the query's bits are those of its path decoded alone.
struct MlaKeys {
  int64_t count;    // behind the first keys of the sequence
  int64_t plain;    // the first so many stand at their own number
  int8_t step[64];  // then: how far behind `plain`
  int64_t position(int64_t key) const { return key < plain ? key : plain + step[key - plain]; }
};

inline int64_t mla_at(const Tensor& t, int64_t i) {
  return t.as<int32_t>()[i];
}

// Of the tile's last query; those before it see one key less each.
inline MlaKeys mla_keys_of(const MlaDecode& args, const MlaTile& tile) {
  MlaKeys keys;
  keys.count = keys.plain = std::max<int64_t>(tile.position + tile.tokens, 0);
  if (!args.tree_mask.defined()) return keys;
  keys.count = keys.plain = tile.masked;
  const int64_t last = mla_at(args.rows.kv_len, tile.row) - tile.masked;
  for (int64_t bit = 0; bit < last; ++bit) {
    if ((args.tree_mask.as<int64_t>()[tile.t] >> bit & 1) != 0)
      keys.step[keys.count++ - keys.plain] = static_cast<int8_t>(bit);
  }
  return keys;
}

inline constexpr float kMlaNothing = -std::numeric_limits<float>::infinity();

// Of one thread's lanes.
struct MlaSoftmax {
  alignas(64) float scores[kMlaHeads][kMlaBlock];  // of the block; then its weights
  float decay[kMlaHeads];                          // what the sum so far is multiplied by
  float top[kMlaHeads];
  float total[kMlaHeads];

  void start(int64_t lane) {
    top[lane] = kMlaNothing;
    total[lane] = 0;
  }
  // The block's scores of one lane, of which it sees [low, high), become weights.
  void soften(int64_t lane, int64_t low, int64_t high, float factor) {
    const F32 d;
    float* row = scores[lane];
    const VF first = hn::Set(d, static_cast<float>(std::max<int64_t>(low, 0)));
    const VF end = hn::Set(d, static_cast<float>(std::min<int64_t>(high, kMlaBlock)));
    const auto seen = [&](int64_t j) {
      const VF number = hn::Iota(d, static_cast<float>(j));
      return hn::And(number >= first, number < end);
    };
    VF most = hn::Set(d, top[lane]);
    for (int64_t j = 0; j < kMlaBlock; j += kLanes) {
      const VF score = hn::Load(d, row + j) * hn::Set(d, factor);
      const VF masked = hn::IfThenElse(seen(j), score, hn::Set(d, kMlaNothing));
      hn::Store(score, d, row + j);
      most = hn::Max(masked, most);
    }
    const float highest = hn::GetLane(hn::MaxOfLanes(d, most));
    VF sum = hn::Zero(d);
    for (int64_t j = 0; j < kMlaBlock; j += kLanes) {
      const VF weight = exponential(hn::Load(d, row + j) - hn::Set(d, highest));
      const VF masked = hn::IfThenElseZero(seen(j), weight);
      hn::Store(masked, d, row + j);
      sum = sum + masked;
    }
    decay[lane] = highest == top[lane] ? 1.0f : std::exp(top[lane] - highest);
    total[lane] = total[lane] * decay[lane] + hn::GetLane(hn::SumOfLanes(d, sum));
    top[lane] = highest;
  }
};

// Tiles one after the other, on one thread.
template <class Rows>
class MlaRun {
 public:
  explicit MlaRun(const MlaDecode& args) : args_(args), rows_(args, softmax_) {}

  void operator()(const MlaTile& tile) {
    for (int64_t lane = 0; lane < tile.lanes(); ++lane) {
      softmax_.start(lane);
      rows_.start(lane, tile.t + lane / tile.heads, tile.head + lane % tile.heads);
    }
    const MlaKeys keys = mla_keys_of(args_, tile);
    const int64_t first = args_.first / kMlaBlock * kMlaBlock;  // nothing is seen before it
    find_block(tile, keys, first);
    for (int64_t from = first; from < keys.count; from += kMlaBlock) {
      for (int64_t j = 0; j < kMlaBlock; ++j) rows_.load(j, found_[j]);
      find_block(tile, keys, from + kMlaBlock);
      add_block(tile, keys, from);
    }
    for (int64_t lane = 0; lane < tile.lanes(); ++lane) store(tile, lane);
  }

 private:
  static constexpr int kTogether = 4;  // lanes of a product

  // Where the rows of keys [from, from + block) stand.
  void find_block(const MlaTile& tile, const MlaKeys& keys, int64_t from) {
    const int64_t p = args_.kv.dim(1);
    const int32_t* pages = args_.rows.pages.as<int32_t>() + mla_at(args_.rows.page_begin, tile.row);
    for (int64_t j = 0; j < kMlaBlock; ++j) {
      found_[j] = -1;
      if (from + j >= keys.count) continue;
      const int64_t position = keys.position(from + j);
      found_[j] = pages[position / p] * args_.kv.stride(0) + position % p * args_.kv.stride(1);
    }
  }

  // Some of the rows found, the `share`-th of `shares`, come into the second level of the caches.
  void fetch_found(int64_t share, int64_t shares) const {
    const int64_t bytes = bytes_of(args_.kv.dtype, args_.kv.dim(2));
    for (int64_t j = kMlaBlock * share / shares; j < kMlaBlock * (share + 1) / shares; ++j) {
      if (found_[j] < 0) continue;
      const auto* row = element<uint8_t>(args_.kv, 0) + bytes_of(args_.kv.dtype, found_[j]);
      for (int64_t i = 0; i < bytes; i += 64) prefetch_far(row + i);
    }
  }

  // The next block is fetched beside the products of this one.
  void add_block(const MlaTile& tile, const MlaKeys& keys, int64_t from) {
    const int64_t lanes = tile.lanes();
    const auto count = [&](int64_t lane) {
      return keys.count - tile.tokens + 1 + lane / tile.heads;
    };
    // The queries that see something of the block are the last ones.
    int64_t first = 0;
    while (first < lanes && count(first) <= std::max(from, args_.first)) first += tile.heads;
    const int64_t latent = args_.q_latent.dim(2);
    const int64_t score_parts = kMlaBlock / Rows::kScoreRows;
    const int64_t add_parts = (latent + Rows::kAddValues - 1) / Rows::kAddValues;
    const int64_t products = (lanes - first) / kTogether + (lanes - first) % kTogether;
    int64_t done = 0;
    const auto fetch = [&] { fetch_found(done++, products * (score_parts + add_parts)); };
    for (int64_t j = 0; j < kMlaBlock; j += Rows::kScoreRows) {
      for (int64_t lane = first; lane < lanes;) {
        fetch();
        lane += lane + kTogether <= lanes ? rows_.template score<kTogether>(lane, j)
                                          : rows_.template score<1>(lane, j);
      }
    }
    for (int64_t lane = first; lane < lanes; ++lane)
      softmax_.soften(lane, args_.first - from, count(lane) - from, args_.scale);
    for (int64_t k = 0; k < latent; k += Rows::kAddValues) {
      for (int64_t lane = first; lane < lanes;) {
        fetch();
        lane += lane + kTogether <= lanes ? rows_.template add<kTogether>(lane, k)
                                          : rows_.template add<1>(lane, k);
      }
    }
  }

  void store(const MlaTile& tile, int64_t lane) {
    const int64_t t = tile.t + lane / tile.heads, h = tile.head + lane % tile.heads;
    const float* sum = rows_.finish(lane);
    const float total = softmax_.total[lane];
    const VF divisor = hn::Set(F32(), total > 0 ? total : 1.0f);
    with_element_type(args_.out.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      T* out = element<T>(args_.out, t * args_.out.stride(0) + h * args_.out.stride(1));
      for (int64_t i = 0; i < args_.out.dim(2); i += kLanes)
        store_lanes(hn::Load(F32(), sum + i) / divisor, out + i);
    });
    if (args_.lse.defined())
      args_.lse.as<float>()[t * args_.lse.stride(0) + h] = softmax_.top[lane] + std::log(total);
  }

  const MlaDecode& args_;
  MlaSoftmax softmax_;
  Rows rows_;
  int64_t found_[kMlaBlock];  // elements of the cache; negative: none
};

// Tiles of at most `each` queries, row after row.
class MlaTiles {
 public:
  MlaTiles(const MlaDecode& args, int64_t each) : args_(args), each_(each) {}

  int64_t count() const {
    int64_t sum = 0;
    for (int64_t b = 0; b < args_.rows.kv_len.dim(0); ++b) sum += of_row(b);
    return sum;
  }
  // Cheap when `i` rises.
  MlaTile operator()(int64_t i) {
    for (; i >= before_ + of_row(row_); ++row_) before_ += of_row(row_);
    const int64_t begin = mla_at(args_.rows.row_begin, row_),
                  end = mla_at(args_.rows.row_begin, row_ + 1);
    const int64_t first = mla_at(args_.rows.kv_len, row_) - (end - begin);
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
    return (mla_at(args_.rows.row_begin, b + 1) - mla_at(args_.rows.row_begin, b) + each_ - 1) /
           each_;
  }
  const MlaDecode& args_;
  int64_t each_, row_ = 0, before_ = 0;  // tiles before row_
};

// Items are groups of heads of a tile, all of one size but the last; heads are divided among
// threads.
template <class Rows>
void mla_decode_tiles(Exec& exec, const MlaDecode& args) {
  const int64_t H = args.q_latent.dim(1);
  const int64_t group = std::clamp<int64_t>(H / exec.threads(), 1, kMlaHeads);
  const int64_t groups = (H + group - 1) / group;
  // Queries of a tree see keys of their own.
  const int64_t each = args.tree_mask.defined() ? 1 : kMlaHeads / group;
  exec.parallel_for(MlaTiles(args, each).count() * groups, 1, [&](Range items) {
    MlaRun<Rows> run(args);
    MlaTiles tiles(args, each);
    for (int64_t i = items.begin; i < items.end; ++i) {
      MlaTile tile = tiles(i / groups);
      tile.head = i % groups * group;
      tile.heads = std::min(group, H - tile.head);
      run(tile);
    }
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
