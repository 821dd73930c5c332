#include "nano_compare.h"

namespace fathom::testing {
namespace {

// Logits of about 20, sums of 576 and 192 products in another order.
TEST(MlaAbsorbTest, ExpandedDecodeAgrees) {
  compare_on_off("mla_absorb", 1e-3, "-fp8_block_gemm");
}

}  // namespace
}  // namespace fathom::testing
