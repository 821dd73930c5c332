#include "nano_compare.h"

namespace fathom::testing {
namespace {

TEST(SharedExpertFusionTest, Agrees) {
  compare_on_off("shared_expert_fusion", 1e-3, "-fp8_block_gemm");
}

// A code of e4m3 may be its neighbour where the inner activation differs in its last bit.
TEST(SharedExpertFusionTest, AgreesInFp8) {
  compare_on_off("shared_expert_fusion", 0.5);
}

}  // namespace
}  // namespace fathom::testing
