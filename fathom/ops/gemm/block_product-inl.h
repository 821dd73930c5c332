// gguf_gemm with packed weights for a number of digits: rounds activations, cuts the work into
// tiles (block_tile-inl.h).
//
// Few tokens: codes are unpacked in registers as they stream by. Many: they are unpacked once for
// all tokens that meet them (block_stage-inl.h).
#if defined(FATHOM_OPS_GEMM_BLOCK_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_BLOCK_PRODUCT_INL_H_
#undef FATHOM_OPS_GEMM_BLOCK_PRODUCT_INL_H_
#else
#define FATHOM_OPS_GEMM_BLOCK_PRODUCT_INL_H_
#endif

#include <algorithm>

#include "fathom/ops/gemm/block_quants.h"
#include "fathom/ops/gemm/block_stage-inl.h"
#include "fathom/ops/gemm/block_tile-inl.h"
#include "fathom/ops/gemm/gguf_gemm.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/quantise_rows-inl.h"
#include "fathom/ops/gemm/token_tiles-inl.h"
#include "fathom/ops/gemm/work_split.h"
#include "fathom/ops/simd/store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

inline constexpr int64_t kTokenBlockBytes = 256 << 10;  // of rounded activations
// Tokens from which on they are many. Words come out of codes once for all of them only.
template <int kDigits>
inline constexpr int kLeastStaged = kDigits == 2 && kWordDots ? 4 : 24;

// One product as a thread sees it.
template <int kDigits>
struct BlockJob {
  const GgufGemm& args;
  const TokenTile<kDigits>* x;
  int64_t group_bytes;

  int64_t M() const { return args.x.dim(0); }
  int64_t K() const { return args.x.dim(1); }
  TokensAt<kDigits> tokens_at(int64_t m, int64_t k) const {
    constexpr int kTile = kTileTokens<kDigits>;
    return {x + tile_index(m, k, K(), kTile), static_cast<int>(m % kTile)};
  }
};

// Where vectors first, first + 1, ... of the weights' rows lie.
template <int kDigits, int kVectors>
void rows_at(const BlockJob<kDigits>& job, int64_t first, RowsAt (&rows)[kVectors]) {
  for (int v = 0; v < kVectors; ++v) {
    const int64_t group = (first + v) / kParts;
    rows[v].group = static_cast<const uint8_t*>(job.args.weight.data) + group * job.group_bytes;
    rows[v].part = static_cast<int>((first + v) % kParts);
  }
}

// Vectors [first, first + kVectors) of the weights' rows against kTokens tokens from m on.
template <DType kType, int kDigits, int kTokens, int kVectors>
void product_tile(const BlockJob<kDigits>& job, int64_t first, int64_t m, bool streams) {
  HWY_ALIGN float tile[kTokens * kVectors * kLanes];
  RowsAt rows[kVectors];
  rows_at(job, first, rows);
  prefetch_tile(job.args.y, m, first * kLanes, kTokens, kVectors * kLanes);
  multiply_block_tile<kType, kDigits, kTokens, kVectors>(
      rows, job.K(), job.tokens_at(m, 0), streams, tile
  );
  store_tile(job.args.y, job.args.bias, m, first * kLanes, kTokens, kVectors * kLanes, tile);
}

// Tokens [m, end), m at a tile; the first of them meet weights from memory.
template <DType kType, int kDigits, int kVectors>
void product_rows(const BlockJob<kDigits>& job, int64_t first, int64_t m, int64_t end) {
  bool streams = true;
  for_tiles<kTileTokens<kDigits>>(m, end, [&](auto tokens, int64_t at) {
    product_tile<kType, kDigits, tokens(), kVectors>(job, first, at, streams);
    streams = false;
  });
}

// Chunks of a stage, of about equal size.
template <DType kType, int kDigits>
int64_t chunks_at_once(int64_t K) {
  constexpr int64_t kMost = BlockStage<kType, kDigits>::kMost;
  const int64_t stages = (K / kChunk + kMost - 1) / kMost;
  return (K / kChunk + stages - 1) / stages;
}

// Tokens [m, end), as many as meet a stage, m at a tile, against two vectors of rows; the second
// may lie behind the last, whose products are not stored.
template <DType kType, int kDigits>
void product_staged(const BlockJob<kDigits>& job, int64_t first, int64_t m, int64_t end) {
  constexpr int kTile = kTileTokens<kDigits>;
  HWY_ALIGN float sums[kStageTokens<kType, kDigits> * kStageRows];
  BlockStage<kType, kDigits> stage;
  RowsAt rows[kStageVectors];
  rows_at(job, first, rows);
  if ((first + 1) * kLanes == job.args.weight.dim(0)) rows[1] = rows[0];
  const Tensor& y = job.args.y;
  const int64_t K = job.K(), row = first * kLanes, tiles = (end - m + kTile - 1) / kTile;
  const int64_t each = chunks_at_once<kType, kDigits>(K);
  const bool direct =
      y.dtype == DType::f32 && !job.args.bias.defined() && row + kStageRows <= y.dim(1);
  float* y_row = direct ? static_cast<float*>(y.data) + row : nullptr;
  for (int64_t k = 0; k < K; k += each * kChunk) {
    const int chunks = static_cast<int>(std::min(each, (K - k) / kChunk));
    const int64_t next = k + chunks * kChunk;
    const bool last = next == K;
    LinesAhead ahead[kStageGroups];
    for (int g = 0; g < kStageGroups; ++g) {
      const uint8_t* group = rows[g].group + (last ? kStageGroups * job.group_bytes : 0);
      const int64_t from = last ? 0 : next;
      ahead[g] = codes_ahead<kType>(group, from, std::min(each, (K - from) / kChunk), tiles);
    }
    stage.fill(rows, K, k, chunks);
    for_tiles<kTile>(m, end, [&](auto tokens, int64_t at) {
      for (LinesAhead& lines : ahead) lines.ask();
      const TokensAt<kDigits> x = job.tokens_at(at, k);
      const StageSums own{sums + (at - m) * kStageRows, kStageRows};
      const StageSums in_y{y_row + at * y.stride(0), y.stride(0)};
      multiply_block_stage<kType, kDigits, tokens()>(
          stage,
          chunks,
          x,
          x.tile + K / kChunk,
          k == 0 ? StageSums{} : own,
          last && direct ? in_y : own
      );
      if (last && !direct) store_tile(y, job.args.bias, at, row, tokens(), kStageRows, own.at);
    });
  }
}

// Many tokens: a stage serves parts of them of about equal size.
template <DType kType, int kDigits>
void product_many(const BlockJob<kDigits>& job, Range tokens, Range vectors) {
  constexpr int kTile = kTileTokens<kDigits>;
  const int64_t tiles = (tokens.end - tokens.begin + kTile - 1) / kTile;
  constexpr int kMost = kStageTokens<kType, kDigits>;
  const int64_t parts = (tiles * kTile + kMost - 1) / kMost;
  const int64_t each = (tiles + parts - 1) / parts * kTile;
  for (int64_t m = tokens.begin; m < tokens.end; m += each) {
    for (int64_t first = vectors.begin; first < vectors.end; first += kStageVectors)
      product_staged<kType, kDigits>(job, first, m, std::min(tokens.end, m + each));
  }
}

// Tokens that all rows pass before the next: what leaves the activations in the second-level cache.
template <int kDigits>
int64_t tokens_at_once(int64_t K) {
  const int64_t tile_bytes = K / kChunk * static_cast<int64_t>(sizeof(TokenTile<kDigits>));
  return std::max<int64_t>(kTokenBlockBytes / tile_bytes, 4) * kTileTokens<kDigits>;
}

template <DType kType, int kDigits>
void product_few(const BlockJob<kDigits>& job, Range tokens, Range vectors) {
  if (kParts == 1 && job.M() == 1) {
    // Groups one after another: memory serves one stream of weights better than two side by side.
    for (int64_t first = vectors.begin; first < vectors.end; ++first)
      product_rows<kType, kDigits, 1>(job, first, tokens.begin, tokens.end);
    return;
  }
  const int64_t each = tokens_at_once<kDigits>(job.K());
  for (int64_t m = tokens.begin; m < tokens.end; m += each) {
    const int64_t to = std::min<int64_t>(tokens.end, m + each);
    int64_t first = vectors.begin;
    for (; first + 2 <= vectors.end; first += 2) product_rows<kType, kDigits, 2>(job, first, m, to);
    if (first < vectors.end) product_rows<kType, kDigits, 1>(job, first, m, to);
  }
}

// Tokens against vectors of rows.
template <DType kType, int kDigits>
void product_part(const BlockJob<kDigits>& job, Range tokens, Range vectors) {
  if constexpr (kStaged<kType, kDigits>) {
    if (job.M() >= kLeastStaged<kDigits>) return product_many<kType, kDigits>(job, tokens, vectors);
  }
  product_few<kType, kDigits>(job, tokens, vectors);
}

template <int kDigits>
using ProductPart = void (*)(const BlockJob<kDigits>& job, Range tokens, Range vectors);

template <int kDigits>
ProductPart<kDigits> choose_product(DType packed) {
  switch (packed) {
    case DType::q8_0x16:
      return product_part<DType::q8_0x16, kDigits>;
    case DType::q4_0x16:
      return product_part<DType::q4_0x16, kDigits>;
    case DType::q4_1x16:
      return product_part<DType::q4_1x16, kDigits>;
    case DType::q5_0x16:
      return product_part<DType::q5_0x16, kDigits>;
    case DType::q5_1x16:
      return product_part<DType::q5_1x16, kDigits>;
    case DType::q4_kx16:
      return product_part<DType::q4_kx16, kDigits>;
    case DType::q5_kx16:
      return product_part<DType::q5_kx16, kDigits>;
    default:
      return product_part<DType::q6_kx16, kDigits>;
  }
}

template <int kDigits>
void block_product(Exec& exec, const GgufGemm& args) {
  using Tile = TokenTile<kDigits>;
  constexpr int kTile = kTileTokens<kDigits>;
  const int64_t M = args.x.dim(0), K = args.x.dim(1);
  const bool halves = packed_layout(args.weight.dtype).scales == 16;
  const QuantiseLayout layout{
      .offset = code_offset(args.weight.dtype),
      .halves = halves,
      .words = kDigits == 2 && (halves || kWordDots) && M >= kLeastStaged<kDigits>,
  };
  const ProductPart<kDigits> multiply = choose_product<kDigits>(args.weight.dtype);
  const WorkSplit split = split_work(M, exec.threads());
  const int64_t copies = split == WorkSplit::rows_own_copy ? exec.threads() : 1;
  const int64_t copy_bytes =
      (M + kTile - 1) / kTile * (K / kChunk) * static_cast<int64_t>(sizeof(Tile));
  Workspace::Mark mark(*exec.workspace);
  const Tensor rounded = exec.workspace->alloc(DType::u8, {copies, copy_bytes});
  if (split == WorkSplit::rows) {
    exec.parallel_for(M, kTile, [&](Range rows) {
      quantise_rows<kDigits>(
          args.x, rows.begin, rows.end, layout, reinterpret_cast<Tile*>(rounded.data)
      );
    });
  }
  const int64_t group_bytes = packed_layout(args.weight.dtype).group_bytes(K);
  ProductParts parts(
      split, {M, kTile}, {args.weight.dim(0) / kLanes, std::max(2, kParts)}, exec.threads()
  );
  exec.on_threads([&](int thread, int) {
    const Range tokens = parts.tokens_of(thread);
    if (tokens.begin >= tokens.end) return;
    Tile* x = reinterpret_cast<Tile*>(
        static_cast<uint8_t*>(rounded.data) + (copies > 1 ? thread * copy_bytes : 0)
    );
    if (split != WorkSplit::rows)
      quantise_rows<kDigits>(args.x, tokens.begin, tokens.end, layout, x);
    parts.each(thread, [&](Range rows) { multiply({args, x, group_bytes}, tokens, rows); });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
