#include "same_tokens.h"

#include "fathom/core/device_queue.h"

namespace fathom::testing {
namespace {

// Where there is no GPU the feature may be on, and changes nothing.
TEST(FeatureTest, CudaGraphKeepsTheTokens) {
  const bool gpu = describe_device(Device::cuda()).ok();
  const std::string device = gpu ? "cuda" : "cpu";
  const std::vector<plan::Request> requests = mixed_requests();
  const Outcome on = run_with("+cuda_graph", "cuda_graph", requests, device);
  const Outcome off = run_with("-cuda_graph", "cuda_graph", requests, device);
  EXPECT_EQ(on.tokens, off.tokens);
  EXPECT_EQ(on.hits > 0, gpu);
  EXPECT_EQ(off.hits, 0);
}

}  // namespace
}  // namespace fathom::testing
