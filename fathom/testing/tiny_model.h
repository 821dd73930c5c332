// A two-layer Llama with random weights and a byte tokeniser (tests/data/tiny-llama): opens in
// milliseconds. Paths are relative to the repository's root, where tests run.
#pragma once

#include "fathom/engine/engine.h"

namespace fathom::testing {

inline engine::Config tiny_engine_config() {
  engine::Config config;
  config.model_path = "tests/data/tiny-llama";
  config.load_format = "dummy";
  config.device = "cpu";
  config.threads = 2;
  config.page_size = 4;
  config.max_total_tokens = 8192;
  config.max_running_requests = 16;
  config.chunked_prefill_size = 32;
  config.random_seed = 7;
  return config;
}

}  // namespace fathom::testing
