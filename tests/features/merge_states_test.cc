#include "nano_compare.h"

namespace fathom::testing {
namespace {

TEST(MergeStatesTest, Close) {
  // Prompts in pieces behind a cached prefix, all of it expanded.
  const auto run = [](const std::string& sign) {
    engine::Config config =
        nano_config({sign + "merge_states,+chunked_prefix_mha,-fp8_block_gemm"});
    config.chunked_prefix_threshold = 0;
    config.chunked_prefill_size = 24;
    return run_nano(config, "merge_states", 1);
  };
  const NanoRun on = run("+"), off = run("-");
  expect_close(on, off, 1e-3);
  EXPECT_GT(on.hits, 0);
  EXPECT_EQ(off.hits, 0);
}

}  // namespace
}  // namespace fathom::testing
