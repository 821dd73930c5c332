#include <array>
#include <cmath>

#include "fathom/ops/element.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/fused_quant_rows.h"

namespace fathom::ops {
namespace {

float value(const FusedQuant& args, const Tensor& x, int64_t k, int64_t K) {
  const float v = load_element(x, k);
  if (args.prologue == FusedQuant::Prologue::none) return v;
  return v / (1.0f + std::exp(-v)) * load_element(x, K + k);
}

}  // namespace

void fused_quant_ref(Exec&, const FusedQuant& args) {
  const int64_t T = args.y.dim(0);
  const int64_t K = args.y.dim(1);
  std::array<float, kFp8Block> group;
  for (int64_t t = 0; t < T; ++t) {
    const Tensor x = args.x.row(t);
    const Tensor y = args.y.row(t);
    for (int64_t begin = 0; begin < K; begin += kFp8Block) {
      const int64_t n = std::min(kFp8Block, K - begin);
      for (int64_t i = 0; i < n; ++i) group[static_cast<size_t>(i)] = value(args, x, begin + i, K);
      const float scale = fp8_scale(fp8_amax(group.data(), n, args.eps), args.ue8m0);
      for (int64_t i = 0; i < n; ++i)
        store_element(y, begin + i, group[static_cast<size_t>(i)] / scale);
      args.scale.as<float>()[begin / kFp8Block * args.scale.stride(0) + t] = scale;
    }
  }
}

}  // namespace fathom::ops
