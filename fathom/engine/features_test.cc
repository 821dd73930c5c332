#include "fathom/engine/features.h"

#include <gtest/gtest.h>

namespace fathom::engine {
namespace {

TEST(FeaturesTest, SwitchesApplyLeftToRight) {
  const Result<Features> features = Features::resolve({"baseline,+radix_cache", "mixed_step"});
  ASSERT_TRUE(features.ok());
  EXPECT_TRUE(features->on(Feature::radix_cache));
  EXPECT_TRUE(features->on(Feature::mixed_step));
  EXPECT_FALSE(features->on(Feature::overlap_schedule));
  EXPECT_EQ(features->reason(Feature::overlap_schedule), "baseline");
  EXPECT_EQ(features->reason(Feature::radix_cache), "--feature +radix_cache");
}

TEST(FeaturesTest, UnknownNameSuggestsTheNearest) {
  const Result<Features> features = Features::resolve({"-radix_cach"});
  ASSERT_FALSE(features.ok());
  EXPECT_NE(features.error().message.find("radix_cache"), std::string::npos);
}

}  // namespace
}  // namespace fathom::engine
