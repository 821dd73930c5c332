#include "same_tokens.h"

namespace fathom::testing {
namespace {

TEST(FeatureTest, MixedStepKeepsTheTokens) {
  expect_same("mixed_step");
}

}  // namespace
}  // namespace fathom::testing
