#include <vector>

#include "fathom/ops/element.h"
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/quant/fused_quant_rows.h"

namespace fathom::ops {
namespace {

// Row n of w without its scales, whatever its form.
void read_row(const Tensor& w, int64_t n, std::vector<float>& values) {
  if (w.dtype != DType::f8e4m3x64) return decode_row(w, n, values.data());
  const auto K = static_cast<int64_t>(values.size());
  for (int64_t k = 0; k < K; ++k)
    values[static_cast<size_t>(k)] = f8e4m3_to_float(w.as<uint8_t>()[tile_offset(n, k, K)]);
}

void quantise_first(Exec& exec, const Fp8BlockGemm& args) {
  Workspace::Mark mark(*exec.workspace);
  const int64_t M = args.x.dim(0), K = args.x.dim(1);
  Fp8BlockGemm quantised = args;
  quantised.x = exec.workspace->alloc(DType::f8e4m3, {M, K});
  quantised.x_scale = exec.workspace->alloc(DType::f32, {K / 128, (M + 3) / 4 * 4});
  fused_quant_ref(
      exec,
      {.x = args.x,
       .ue8m0 = args.ue8m0,
       .y = quantised.x,
       .scale = quantised.x_scale.slice(1, 0, M)}
  );
  fp8_block_gemm_ref(exec, quantised);
}

}  // namespace

void fp8_block_gemm_ref(Exec& exec, const Fp8BlockGemm& args) {
  if (!args.x_scale.defined()) return quantise_first(exec, args);
  const int64_t M = args.x.dim(0), K = args.x.dim(1), N = args.y.dim(1);
  const auto* scales = args.w.scale.as<float>();
  std::vector<float> w(static_cast<size_t>(K));
  for (int64_t n = 0; n < N; ++n) {
    read_row(args.w.data, n, w);
    for (int64_t m = 0; m < M; ++m) {
      const auto* x = args.x.as<uint8_t>() + m * args.x.stride(0);
      double sum = 0;
      for (int64_t block = 0; block < K / 128; ++block) {
        double dot = 0;
        for (int64_t k = block * 128; k < block * 128 + 128; ++k) {
          dot += static_cast<double>(f8e4m3_to_float(x[k])) *
                 static_cast<double>(w[static_cast<size_t>(k)]);
        }
        const double x_scale = args.x_scale.as<float>()[block * args.x_scale.stride(0) + m];
        sum += dot * x_scale * scales[n / 128 * args.w.scale.stride(0) + block];
      }
      store_element(args.y, m * N + n, static_cast<float>(sum));
    }
  }
}

}  // namespace fathom::ops
