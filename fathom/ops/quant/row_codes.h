// Rows of activations as int8 or FP8 codes with a scale each (int8_rows.h, fp8_rows.h), on a GPU.
#pragma once

#include <string_view>

#include "fathom/core/exec.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct RowCodes {
  Tensor codes;  // [M, K] i8 or f8e4m3, contiguous
  Tensor scale;  // [M] f32
};

// Of x [M, K], f32 or bf16, K a multiple of 16, as `form`; in the workspace. The codes of the
// host's rows. A token that is not finite has a scale that is not, and products with its codes,
// scaled, are all NaN.
RowCodes round_rows(Exec& exec, std::string_view op, const Tensor& x, DType form);

}  // namespace fathom::ops
