// fathom doctor: what this machine has, which features are on and why, which kernel row each op
// would take.
#include <cstdio>
#include <iostream>

#include "apps/commands.h"
#include "apps/options.h"
#include "fathom/base/threads.h"
#include "fathom/engine/features.h"
#include "fathom/testing/op_case.h"

namespace fathom::apps {
namespace {

struct Options {
  engine::Config config;
};

constexpr const char* kPromises[] = {"same", "close", "lossy"};

int print_features(const engine::Config& config) {
  const Result<engine::Features> features = engine::Features::resolve(config.features);
  if (!features) {
    std::cerr << "fathom doctor: " << features.error().message << '\n';
    return 1;
  }
  std::puts("features");
  for (size_t i = 0; i < engine::kFeatureCount; ++i) {
    const engine::FeatureRow& row = engine::kFeatures[i];
    const auto feature = static_cast<engine::Feature>(i);
    std::cout << fmt::format(
        "  {:<24}{:<5}{:<7}{:<28}{}\n",
        row.name,
        features->on(feature) ? "on" : "off",
        kPromises[static_cast<size_t>(row.promise)],
        features->reason(feature),
        row.summary
    );
  }
  return 0;
}

// The rows of each op on the CPU, best first; the row that each benched case takes is the first
// that supports it.
void print_kernels() {
  std::puts("kernels (best first; the first row that takes the arguments runs)");
  for (const testing::OpSuite& suite : testing::all_op_suites()) {
    std::string rows;
    for (const testing::RowInfo& row : suite.rows) {
      if (row.device != Device::Kind::cpu) continue;
      rows += (rows.empty() ? "" : ", ") + row.name;
    }
    std::cout << fmt::format("  {:<24}{}\n", suite.op, rows);
  }
}

}  // namespace

Command doctor_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("doctor", "what this machine has, features and kernels with reasons");
  add_engine_options(*command, options->config);
  return {
      command, [options] {
        std::cout << fmt::format("fathom {}\ncpu: {} usable threads\n", kVersion, usable_cpus());
        const int status = print_features(options->config);
        if (status == 0) print_kernels();
        return status;
      }};
}

}  // namespace fathom::apps
