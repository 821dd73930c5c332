#include "same_tokens.h"

#include "fathom/core/device_queue.h"

namespace fathom::testing {
namespace {

// One request at a time: which requests share a step depends on timing, and on a GPU the number of
// rows decides how sums are cut.
Outcome one_by_one(const std::string& feature_switch, const std::string& device) {
  engine::Config config = tiny_engine_config();
  config.device = device;
  config.max_running_requests = 1;
  config.features = {feature_switch};
  Result<std::unique_ptr<engine::Engine>> engine = engine::Engine::open(config);
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().message);
  if (!engine) return {};
  Outcome outcome;
  outcome.tokens = run_all(**engine, mixed_requests());
  outcome.hits = (*engine)->stats().feature_hits.at("cuda_graph");
  return outcome;
}

// Where there is no GPU the feature may be on, and changes nothing.
TEST(FeatureTest, CudaGraphKeepsTheTokens) {
  const bool gpu = describe_device(Device::cuda()).ok();
  const std::string device = gpu ? "cuda" : "cpu";
  const Outcome on = one_by_one("+cuda_graph", device);
  const Outcome off = one_by_one("-cuda_graph", device);
  EXPECT_EQ(on.tokens, off.tokens);
  EXPECT_EQ(on.hits > 0, gpu);
  EXPECT_EQ(off.hits, 0);
}

}  // namespace
}  // namespace fathom::testing
