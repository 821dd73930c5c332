// fathom serve: the OpenAI API over one engine.
#include <memory>

#include "apps/commands.h"
#include "apps/options.h"
#include "apps/session.h"
#include "fathom/server/server.h"

namespace fathom::apps {
namespace {

struct Options {
  engine::Config engine;
  server::ServerConfig server;
  int drain_seconds = 30;
};

int serve(Options& options) {
  options.server.drain_timeout = std::chrono::seconds(options.drain_seconds);
  return server::serve(options.server, [&options](const server::Progress& progress) {
    progress("loading weights", 0);
    return open_engine(options.engine);
  });
}

}  // namespace

Command serve_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("serve", "serve the OpenAI API");
  add_engine_options(*command, options->engine);
  server::ServerConfig& server = options->server;
  command->add_option("--host", server.host, "address to listen on (default: loopback alone)");
  command->add_option("--port", server.port, "port to listen on; 0: any free one")
      ->check(CLI::Range(0, 65535));
  command->add_option("--api-key", server.api_key, "key that requests must carry");
  command->add_option(
      "--admin-api-key", server.admin_api_key, "key for /flush_cache and /abort_request"
  );
  command->add_option("--served-model-name", server.served_model_name, "name that requests use");
  command->add_flag(
      "--any-model-name", server.any_model_name, "answer whatever model a request names"
  );
  command->add_option(
      "--drain-timeout", options->drain_seconds, "seconds for accepted requests after SIGTERM"
  );
  return {command, [options] { return serve(*options); }};
}

}  // namespace fathom::apps
