#include "nano_compare.h"

namespace fathom::testing {
namespace {

TEST(FusedQkvATest, TheSameBits) {
  compare_on_off("fused_qkv_a", 0.0);
  compare_on_off("fused_qkv_a", 0.0, "-fp8_block_gemm");
}

}  // namespace
}  // namespace fathom::testing
