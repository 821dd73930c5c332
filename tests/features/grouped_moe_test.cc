#include "nano_compare.h"

namespace fathom::testing {
namespace {

TEST(GroupedMoeTest, TheSameBitsOnTheCpu) {
  compare_on_off("grouped_moe", 0.0);
}

}  // namespace
}  // namespace fathom::testing
