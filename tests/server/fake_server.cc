// The real server before the fake engine, as a program: for tests/server/test_openai.py and for
// driving the server by hand. fake_server PORT [API_KEY [STEP_MICROSECONDS]]
#include <cstdlib>

#include "fathom/server/server.h"
#include "tests/server/fake_engine.h"

int main(int argc, char** argv) {
  using namespace fathom;
  server::ServerConfig config;
  config.port = argc > 1 ? std::atoi(argv[1]) : 30000;
  if (argc > 2) config.api_key = argv[2];
  testing::FakeOptions options;
  if (argc > 3) options.step = std::chrono::microseconds(std::atoi(argv[3]));
  return server::serve(
      config,
      [&](const server::Progress& progress) -> Result<std::unique_ptr<engine::Engine>> {
        progress("load_weight", 50);
        return std::unique_ptr<engine::Engine>(new testing::FakeEngine(options));
      }
  );
}
