// The rows of fp8_block_gemm's kernel table, and how the row of clusters cuts its work.
#pragma once

#include "fathom/ops/gemm/fp8_block_gemm.h"

namespace fathom::ops {

void fp8_block_gemm_ref(Exec& exec, const Fp8BlockGemm& args);

// Packed weights; one per instruction level, named by Highway. The one of AVX3_DL needs bf16 dot
// products too.
namespace N_AVX2 {
void fp8_block_gemm(Exec& exec, const Fp8BlockGemm& args);
}
namespace N_AVX3 {
void fp8_block_gemm(Exec& exec, const Fp8BlockGemm& args);
}
namespace N_AVX3_DL {
void fp8_block_gemm(Exec& exec, const Fp8BlockGemm& args);
}
namespace N_NEON {
void fp8_block_gemm(Exec& exec, const Fp8BlockGemm& args);
}

void fp8_block_gemm_cuda_plain(Exec& exec, const Fp8BlockGemm& args);

// CUDA: tiled weights, M <= 64, or a few tokens that are not quantised yet.
bool fp8_block_gemm_takes_cluster(const Exec& exec, const Fp8BlockGemm& args);
void fp8_block_gemm_cluster_sm90(Exec& exec, const Fp8BlockGemm& args);
// CUDA: tiled weights, 65 to 128 tokens.
bool fp8_block_gemm_takes_rings(const Exec& exec, const Fp8BlockGemm& args);
void fp8_block_gemm_rings_sm90(Exec& exec, const Fp8BlockGemm& args);
// CUDA: tiled weights, any number of tokens; meant for many.
bool fp8_block_gemm_takes_tile(const Exec& exec, const Fp8BlockGemm& args);
void fp8_block_gemm_tile_sm90(Exec& exec, const Fp8BlockGemm& args);

// The row of clusters: cluster c works on groups c, c + clusters, ...; the CTA of rank r in it on
// their blocks [first_block(r), first_block(r + 1)).
struct ClusterPlan {
  int groups = 0;   // of outputs
  int blocks = 0;   // of 128 k
  int cluster = 1;  // CTAs of one: 1 to 4
  int clusters = 0;

  int first_block(int rank) const { return rank * blocks / cluster; }
  int groups_of(int c) const { return (groups - c + clusters - 1) / clusters; }
  // Blocks that a CTA has at most, of one group and over all its groups.
  int most_blocks() const { return (blocks + cluster - 1) / cluster; }
  int most_units() const { return groups_of(0) * most_blocks(); }
};

// The row of rings: cluster c works on groups c, c + clusters, ...; it has `parts` CTAs, each with
// blocks [first_block(p), first_block(p + 1)). Groups of 128 outputs have one part, smaller ones a
// cluster each.
struct RingPlan {
  int outputs = 128;  // of a group: 64, 80 or 128
  int groups = 0;
  int blocks = 0;  // of 128 k
  int parts = 1;   // 1 to 4
  int clusters = 0;

  int first_block(int part) const { return part * blocks / parts; }
  int groups_of(int c) const { return (groups - c + clusters - 1) / clusters; }
  // Blocks that a CTA has at most.
  int most_units() const { return groups_of(0) * ((blocks + parts - 1) / parts); }
};
// Whose weight scales a CTA keeps.
constexpr int most_ring_units(int outputs) {
  return outputs == 64 ? 144 : 72;
}

#if defined(__CUDACC__)
#define FATHOM_BOTH_SIDES __host__ __device__
#else
#define FATHOM_BOTH_SIDES
#endif

// Where a CTA finds its work without a division, which costs a kernel's start 100 to 150 cycles: of
// a plan of `clusters` clusters of `size` CTAs each.
struct PlanPlaces {
  uint32_t inverse = 0;  // of size, in 1/65536, rounded up
  int turns = 0;         // groups of the first clusters; of the others one less
  int longer = 0;        // clusters with so many

  // n / size of small n: exact below 16384.
  FATHOM_BOTH_SIDES int divided(int n) const {
    return static_cast<int>(static_cast<uint32_t>(n) * inverse >> 16);
  }
  FATHOM_BOTH_SIDES int groups_of(int cluster) const {
    return cluster < longer ? turns : turns - 1;
  }
};
constexpr PlanPlaces plan_places(int groups, int size, int clusters) {
  const int turns = (groups + clusters - 1) / clusters;
  return {
      .inverse = (65536 + static_cast<uint32_t>(size) - 1) / static_cast<uint32_t>(size),
      .turns = turns,
      .longer = groups - (turns - 1) * clusters};
}

#undef FATHOM_BOTH_SIDES

struct ClusterLimits {
  int processors = 1;
  int resident = 1;     // CTAs that fit a processor
  bool whole = false;   // few tokens, and a CTA has a processor for itself all the same
  int most_blocks = 0;  // of one CTA and group; 0: any number
};

// Up to 32 tokens: whether CTAs whose rings take a whole processor end first.
bool clusters_take_whole_processors(int64_t tokens, int64_t groups, int64_t blocks, int processors);

// The clusters that end first: their CTAs share the memory's rate, but none takes more than its
// own, and a group whose parts must be added up costs a meeting.
ClusterPlan plan_clusters(int64_t groups, int64_t blocks, const ClusterLimits& limits);

// The plan of the row of rings that ends first, at most one CTA a processor; no groups where a CTA
// would have more than most_ring_units.
RingPlan plan_rings(int64_t outputs, int64_t blocks, int processors);

}  // namespace fathom::ops
