#include "nano_compare.h"

namespace fathom::testing {
namespace {

TEST(MoeAlignTest, TheSameBits) {
  compare_on_off("moe_align", 0.0);
}

}  // namespace
}  // namespace fathom::testing
