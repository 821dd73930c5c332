#include "same_tokens.h"

namespace fathom::testing {
namespace {

TEST(FeatureTest, OverlapScheduleKeepsTheTokens) {
  expect_same("overlap_schedule");
}

}  // namespace
}  // namespace fathom::testing
