// Lossy: what is promised is that the rows run when asked for, and only then, on GGUF weights. The
// bound is the op's.
#include <gtest/gtest.h>

#include "fathom/core/exec.h"
#include "fathom/engine/features.h"
#include "fathom/ops/gemm/gguf_gemm.h"

namespace fathom::testing {
namespace {

TEST(FeatureTest, Int8ActivationsIsOffUnlessAskedFor) {
  const auto off = engine::Features::resolve({});
  const auto on = engine::Features::resolve({"+int8_activations"});
  ASSERT_TRUE(off.ok() && on.ok());
  EXPECT_FALSE(off->on(engine::Feature::int8_activations));
  EXPECT_TRUE(on->on(engine::Feature::int8_activations));
}

}  // namespace
}  // namespace fathom::testing
