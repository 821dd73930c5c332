#include "nano_compare.h"

namespace fathom::testing {
namespace {

// The forms by the rule, whatever the threshold and the chunks: none, some and all of a prefix are
// expanded.
TEST(ChunkedPrefixMhaTest, AnyThresholdAgrees) {
  engine::Config off = nano_config({"-chunked_prefix_mha,-fp8_block_gemm"});
  const NanoRun absorbed = run_nano(off, "chunked_prefix_mha", 2);
  EXPECT_EQ(absorbed.hits, 0);
  for (const int64_t threshold : {int64_t{0}, int64_t{8192}, int64_t{1} << 40}) {
    for (const int chunk : {24, 512}) {
      engine::Config config = nano_config({"+chunked_prefix_mha,-fp8_block_gemm"});
      config.chunked_prefix_threshold = threshold;
      config.chunked_prefill_size = chunk;
      const NanoRun expanded = run_nano(config, "chunked_prefix_mha", 2);
      expect_close(expanded, absorbed, 1e-3);
      EXPECT_GT(expanded.hits, 0);
      EXPECT_GT(expanded.cached, 0);
    }
  }
}

}  // namespace
}  // namespace fathom::testing
