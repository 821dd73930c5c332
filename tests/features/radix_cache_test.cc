#include "same_tokens.h"

namespace fathom::testing {
namespace {

TEST(FeatureTest, RadixCacheKeepsTheTokens) {
  expect_same("radix_cache");
}

}  // namespace
}  // namespace fathom::testing
