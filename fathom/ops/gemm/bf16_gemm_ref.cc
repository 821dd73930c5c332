#include <vector>

#include "fathom/ops/element.h"
#include "fathom/ops/gemm/bf16_gemm_rows.h"
#include "fathom/ops/gemm/pack_weight.h"

namespace fathom::ops {

void bf16_gemm_ref(Exec& exec, const Bf16Gemm& args) {
  const int64_t M = args.x.dim(0), N = args.y.dim(1), K = args.x.dim(1);
  exec.parallel_for(N, 1, [&](Range range) {
    std::vector<float> weight(static_cast<size_t>(K));
    for (int64_t n = range.begin; n < range.end; ++n) {
      decode_row(args.weight, n, weight.data());
      for (int64_t m = 0; m < M; ++m) {
        double sum = args.bias.defined() ? load_element(args.bias, n) : 0.0;
        for (int64_t k = 0; k < K; ++k) {
          sum += static_cast<double>(load_element(args.x, m * args.x.stride(0) + k)) *
                 weight[static_cast<size_t>(k)];
        }
        store_element(args.y, m * args.y.stride(0) + n, static_cast<float>(sum));
      }
    }
  });
}

}  // namespace fathom::ops
