// fp8_block_gemm, row tile_sm90: many tokens (M > 128), the time is the tensor cores'.
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/fp8_tile_sm90.cuh"

namespace fathom::ops {

bool fp8_block_gemm_takes_tile(const Exec&, const Fp8BlockGemm& args) {
  return args.w.data.dtype == DType::f8e4m3x64 && args.x_scale.defined() && args.x.dim(0) > 0 &&
         args.x.stride(0) % 16 == 0 && reinterpret_cast<uintptr_t>(args.x.data) % 16 == 0;
}

void fp8_block_gemm_tile_sm90(Exec& exec, const Fp8BlockGemm& args) {
  run_fp8_tiles<Fp8Scales::blocks>(
      exec,
      {.op = "fp8_block_gemm",
       .x = args.x,
       .x_scale = args.x_scale,
       .w = args.w,
       .bias = {},
       .y = args.y}
  );
}

}  // namespace fathom::ops
