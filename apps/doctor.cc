// fathom doctor: what this machine has, which features are on and why, which kernel row each op
// would take.
#include <cstdio>
#include <iostream>

#include "apps/commands.h"
#include "apps/options.h"
#include "fathom/base/threads.h"
#include "fathom/core/device_queue.h"
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

std::string rows_of(const testing::OpSuite& suite, Device::Kind device) {
  std::string rows;
  for (const testing::RowInfo& row : suite.rows) {
    if (row.device == device) rows += (rows.empty() ? "" : ", ") + row.name;
  }
  return rows.empty() ? "-" : rows;
}

// The rows of each op, best first; on a GPU the CPU's "ref" stands in for a missing one.
void print_kernels() {
  std::puts("kernels (best first; the first row that takes the arguments runs)");
  for (const testing::OpSuite& suite : testing::all_op_suites()) {
    std::cout << fmt::format("  {:<24}cpu: {:<32}", suite.op, rows_of(suite, Device::Kind::cpu));
#if FATHOM_CUDA
    std::cout << "cuda: " << rows_of(suite, Device::Kind::cuda);
#endif
    std::cout << '\n';
  }
}

void print_devices() {
  std::cout << fmt::format("fathom {}\ncpu: {} usable threads\n", kVersion, usable_cpus());
  const Result<std::string> gpu = describe_device(Device::cuda());
  std::cout << (gpu ? "cuda: " + *gpu : gpu.error().message) << '\n';
}

}  // namespace

Command doctor_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("doctor", "what this machine has, features and kernels with reasons");
  add_engine_options(*command, options->config);
  return {command, [options] {
            print_devices();
            const int status = print_features(options->config);
            if (status == 0) print_kernels();
            return status;
          }};
}

}  // namespace fathom::apps
