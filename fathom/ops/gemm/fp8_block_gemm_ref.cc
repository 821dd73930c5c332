#include <array>

#include "fathom/ops/element.h"
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/weight_tiles.h"

namespace fathom::ops {

void fp8_block_gemm_ref(Exec& exec, const Fp8BlockGemm& args) {
  (void)exec;
  const int64_t M = args.x.dim(0), K = args.x.dim(1), N = args.y.dim(1);
  const bool tiled = args.w.data.dtype == DType::f8e4m3x64;
  const auto* weights = args.w.data.as<uint8_t>();
  const auto* scales = args.w.scale.as<float>();
  std::array<float, 256> value{};
  for (size_t code = 0; code < 256; ++code)
    value[code] = f8e4m3_to_float(static_cast<uint8_t>(code));
  for (int64_t m = 0; m < M; ++m) {
    const auto* x = args.x.as<uint8_t>() + m * args.x.stride(0);
    for (int64_t n = 0; n < N; ++n) {
      double sum = 0;
      for (int64_t block = 0; block < K / 128; ++block) {
        double dot = 0;
        for (int64_t k = block * 128; k < block * 128 + 128; ++k) {
          const uint8_t w = weights[tiled ? tile_offset(n, k, K) : n * args.w.data.stride(0) + k];
          dot += static_cast<double>(value[x[k]]) * static_cast<double>(value[w]);
        }
        const double x_scale = args.x_scale.as<float>()[block * args.x_scale.stride(0) + m];
        sum += dot * x_scale * scales[n / 128 * args.w.scale.stride(0) + block];
      }
      store_element(args.y, m * N + n, static_cast<float>(sum));
    }
  }
}

}  // namespace fathom::ops
