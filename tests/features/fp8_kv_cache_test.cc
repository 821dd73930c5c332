#include "nano_compare.h"

namespace fathom::testing {
namespace {

TEST(Fp8KvCacheTest, TasksAreSolvedAlike) {
  compare_on_off("fp8_kv_cache", 1.0);
}

TEST(Fp8KvCacheTest, NeedsLatents) {
  engine::Config config = nano_config({"+fp8_kv_cache"});
  config.model_path = "tests/data/tiny-llama";
  config.load_format = "dummy";
  const auto engine = engine::Engine::open(config);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message.find("caches no latents"), std::string::npos);
}

}  // namespace
}  // namespace fathom::testing
