// grouped_moe, row few_sm90: the first product of one or two tokens, a pair of CTAs a piece.
#pragma once

#include "fathom/ops/moe/moe_products.cuh"

namespace fathom::ops {

struct FewPairs {
  MoeChoice choice;
  MoeInput x;
  const uint8_t* w;
  const float* w_scale;  // [E][2 I / 128][K / 128]
  uint8_t* h;            // MoeHidden
  float* h_scale;        // e4m3
  int I, blocks;         // blocks: of 128 bytes of K
  bool ue8m0;
};

// False where pairs do not suit: more tokens, or shapes that leave processors idle or have too many
// pieces. `pieces`: experts, at most, times I / 128.
bool few_pairs_gate_up(const Exec& exec, const FewPairs& a, int64_t pieces, bool fp8);

}  // namespace fathom::ops
