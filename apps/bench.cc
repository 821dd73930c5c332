// fathom bench: op | one-batch | serving | feature. Each lives in its own file.
#include "apps/bench.h"

#include "apps/bench_op.h"
#include "apps/bench_op_cuda.h"
#include "apps/bench_serving.h"
#include "apps/commands.h"

namespace fathom::apps {
namespace {

Command bench_op_command(CLI::App& bench) {
  auto options = std::make_shared<BenchOpOptions>();
  CLI::App* command = bench.add_subcommand("op", "the rows of an op's kernel table, case by case");
  command->add_option("name", options->op, "an op, or all")->required();
  command->add_option("--case", options->case_name, "only this case, or those of a shell pattern");
  command->add_option("--row", options->row, "only this row");
  command->add_option("--json", options->json, "append JSON lines to this file");
  command->add_option("--threads", options->threads, "threads (default: all that may be used)");
  auto device = std::make_shared<std::string>("cpu");
  auto dirty_l2 = std::make_shared<bool>(false);
  command->add_option("--device", *device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}));
  command->add_flag("--dirty-l2", *dirty_l2, "cuda: L2 full of written lines before each replay");
  return {command, [options, device, dirty_l2] {
            if (*device == "cpu") return bench_op(*options);
            return bench_op_cuda(
                {.op = options->op,
                 .case_name = options->case_name,
                 .row = options->row,
                 .json = options->json,
                 .dirty_l2 = *dirty_l2}
            );
          }};
}

}  // namespace

Command bench_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "measure kernels, steps, servers and features");
  command->require_subcommand(1);
  auto benches = std::make_shared<std::vector<Command>>();
  benches->push_back(bench_op_command(*command));
  benches->push_back(bench_one_batch_command(*command));
  benches->push_back(bench_feature_command(*command));
  const auto serving_status = std::make_shared<int>(0);
  add_bench_serving(*command, *serving_status);
  return {command, [command, benches, serving_status] {
            for (Command& bench : *benches) {
              if (bench.app->parsed()) return bench.run();
            }
            // Serving runs while the command line is parsed, and leaves its status.
            return command->got_subcommand("serving") ? *serving_status : 2;
          }};
}

}  // namespace fathom::apps
