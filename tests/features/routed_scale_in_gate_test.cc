#include "nano_compare.h"

namespace fathom::testing {
namespace {

TEST(RoutedScaleInGateTest, Close) {
  compare_on_off("routed_scale_in_gate", 1e-2);
  compare_on_off("routed_scale_in_gate", 1e-2, "-shared_expert_fusion");
}

}  // namespace
}  // namespace fathom::testing
