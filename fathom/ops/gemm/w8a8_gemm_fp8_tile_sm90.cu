// w8a8_gemm, row tile_sm90 for many tokens and FP8 weights.
#include "fathom/ops/gemm/fp8_tile_sm90.cuh"
#include "fathom/ops/gemm/w8a8_gemm_rows.h"

namespace fathom::ops {

void w8a8_gemm_fp8_tiles(Exec& exec, const W8a8Gemm& args, const RowCodes& x) {
  run_fp8_tiles<Fp8Scales::channels>(
      exec,
      {.op = "w8a8_gemm",
       .x = x.codes,
       .x_scale = x.scale,
       .w = args.w,
       .bias = args.bias,
       .y = args.y}
  );
}

}  // namespace fathom::ops
