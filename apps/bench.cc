// fathom bench: op | one-batch | serving | feature. Each lives in its own file.
#include "bench.h"

#include "commands.h"

namespace fathom::apps {

Command bench_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "measure kernels, steps, servers and features");
  command->require_subcommand(1);
  auto benches = std::make_shared<std::vector<Command>>();
  benches->push_back(bench_one_batch_command(*command));
  benches->push_back(bench_feature_command(*command));
  return {command, [benches] {
            for (Command& bench : *benches) {
              if (bench.app->parsed()) return bench.run();
            }
            return 2;
          }};
}

}  // namespace fathom::apps
