#include "nano_compare.h"

namespace fathom::testing {
namespace {

TEST(MoeGateTest, TheSameBits) {
  compare_on_off("moe_gate", 0.0);
}

}  // namespace
}  // namespace fathom::testing
