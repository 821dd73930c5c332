#include "nano_compare.h"

namespace fathom::testing {
namespace {

TEST(FusedQuantTest, TheSameBitsOnTheCpu) {
  compare_on_off("fused_quant", 0.0);
}

}  // namespace
}  // namespace fathom::testing
