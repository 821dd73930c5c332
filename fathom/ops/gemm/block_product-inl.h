// gguf_gemm with packed weights for a number of digits: rounds activations, cuts the work into
// tiles (block_tile-inl.h).
//
// Tokens go in blocks that leave their activations in the second-level cache; within a block all
// rows of the weights pass, each pair of groups staying in the first level for all its tiles.
#if defined(FATHOM_OPS_GEMM_BLOCK_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_BLOCK_PRODUCT_INL_H_
#undef FATHOM_OPS_GEMM_BLOCK_PRODUCT_INL_H_
#else
#define FATHOM_OPS_GEMM_BLOCK_PRODUCT_INL_H_
#endif

#include <algorithm>

#include "fathom/ops/gemm/block_quants.h"
#include "fathom/ops/gemm/block_tile-inl.h"
#include "fathom/ops/gemm/gguf_gemm.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/quantise_rows-inl.h"
#include "fathom/ops/gemm/work_split.h"
#include "fathom/ops/simd/store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

inline constexpr int64_t kTokenBlockBytes = 256 << 10;  // of rounded activations

// One product as a thread sees it.
template <int kDigits>
struct BlockJob {
  const GgufGemm& args;
  const QuantisedChunk<kDigits>* x;
  int64_t group_bytes;

  int64_t M() const { return args.x.dim(0); }
  int64_t K() const { return args.x.dim(1); }
};

// Vectors [first, first + kVectors) of the weights' rows against kTokens tokens from m on.
template <DType kType, int kDigits, int kTokens, int kVectors>
void product_tile(const BlockJob<kDigits>& job, int64_t first, int64_t m, bool streams) {
  HWY_ALIGN float tile[kTokens * kVectors * kLanes];
  RowsAt rows[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const int64_t group = (first + v) / kParts;
    rows[v].group = static_cast<const uint8_t*>(job.args.weight.data) + group * job.group_bytes;
    rows[v].part = static_cast<int>((first + v) % kParts);
  }
  prefetch_tile(job.args.y, m, first * kLanes, kTokens, kVectors * kLanes);
  const auto* x = job.x + chunk_index(m, 0, job.K(), kTileTokens<kDigits>);
  multiply_block_tile<kType, kDigits, kTokens, kVectors>(rows, job.K(), x, streams, tile);
  store_tile(job.args.y, job.args.bias, m, first * kLanes, kTokens, kVectors * kLanes, tile);
}

// Tokens [m, end), m at a tile, in the largest tiles that fit.
template <DType kType, int kDigits, int kVectors>
void product_rows(const BlockJob<kDigits>& job, int64_t first, int64_t m, int64_t end) {
  constexpr int kMost = kTileTokens<kDigits>;
  bool streams = true;
  for (; m + kMost <= end; m += kMost, streams = false)
    product_tile<kType, kDigits, kMost, kVectors>(job, first, m, streams);
  if constexpr (kMost > 4) {
    if (m + 4 <= end) {
      product_tile<kType, kDigits, 4, kVectors>(job, first, m, streams);
      m += 4;
      streams = false;
    }
  }
  if constexpr (kMost > 2) {
    if (m + 2 <= end) {
      product_tile<kType, kDigits, 2, kVectors>(job, first, m, streams);
      m += 2;
      streams = false;
    }
  }
  if (m < end) product_tile<kType, kDigits, 1, kVectors>(job, first, m, streams);
}

// Tokens against vectors of rows.
template <DType kType, int kDigits>
void product_part(const BlockJob<kDigits>& job, Range tokens, Range vectors) {
  constexpr int kMost = kTileTokens<kDigits>;
  const int64_t token_bytes =
      job.K() / kChunk * static_cast<int64_t>(sizeof(QuantisedChunk<kDigits>));
  const int64_t each = std::max<int64_t>(kTokenBlockBytes / token_bytes / kMost, 4) * kMost;
  for (int64_t m = tokens.begin; m < tokens.end; m += each) {
    const int64_t to = std::min<int64_t>(tokens.end, m + each);
    int64_t first = vectors.begin;
    for (; first + 2 <= vectors.end; first += 2) product_rows<kType, kDigits, 2>(job, first, m, to);
    if (first < vectors.end) product_rows<kType, kDigits, 1>(job, first, m, to);
  }
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
  using Chunk = QuantisedChunk<kDigits>;
  constexpr int kTile = kTileTokens<kDigits>;
  const int64_t M = args.x.dim(0), K = args.x.dim(1);
  const QuantiseLayout layout{
      .offset = code_offset(args.weight.dtype),
      .halves = packed_layout(args.weight.dtype).scales == 16,
      .tile = kTile,
  };
  const ProductPart<kDigits> multiply = choose_product<kDigits>(args.weight.dtype);
  const WorkSplit split = split_work(M, exec.threads());
  const int64_t copies = split == WorkSplit::rows_own_copy ? exec.threads() : 1;
  const int64_t copy_bytes =
      (M + kTile - 1) / kTile * kTile * (K / kChunk) * static_cast<int64_t>(sizeof(Chunk));
  Workspace::Mark mark(*exec.workspace);
  const Tensor rounded = exec.workspace->alloc(DType::u8, {copies, copy_bytes});
  if (split == WorkSplit::rows) {
    exec.parallel_for(M, 1, [&](Range rows) {
      quantise_rows<kDigits>(
          args.x, rows.begin, rows.end, layout, reinterpret_cast<Chunk*>(rounded.data)
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
    Chunk* x = reinterpret_cast<Chunk*>(
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
