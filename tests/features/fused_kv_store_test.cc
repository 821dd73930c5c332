#include "nano_compare.h"

namespace fathom::testing {
namespace {

TEST(FusedKvStoreTest, TheSameBits) {
  compare_on_off("fused_kv_store", 0.0);
  compare_on_off("fused_kv_store", 0.0, "-fused_rope_store");
}

}  // namespace
}  // namespace fathom::testing
