#include "nano_compare.h"

namespace fathom::testing {
namespace {

TEST(FusedRopeStoreTest, TheSameBits) {
  compare_on_off("fused_rope_store", 0.0);
}

}  // namespace
}  // namespace fathom::testing
