// Random weight matrices for cases and tests, in any dtype that the products take.
#pragma once

#include "fathom/testing/op_case.h"

namespace fathom::testing {

// [N, K], or [packed_rows(dtype, N), K] for a packed dtype: values of about zero mean and unit
// standard deviation; i8: all codes alike. Block formats get random codes and scales; a packed
// dtype gets the packed form of what its unpacked dtype would get. K must suit the dtype.
Tensor random_weight(CaseInputs& in, DType dtype, int64_t N, int64_t K);

}  // namespace fathom::testing
