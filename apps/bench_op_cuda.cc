#include "apps/bench_op_cuda.h"

#include <fmt/format.h>

#if FATHOM_CUDA
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/case_choice.h"
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/testing/cuda/device_bench.h"
#endif

namespace fathom {

#if FATHOM_CUDA

namespace {

using testing::Ceilings;
using testing::DeviceBench;
using testing::DeviceExec;
using testing::ErasedCase;
using testing::OpSuite;
using testing::RowInfo;
using testing::Times;

std::string today() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&now, &parts);
  return fmt::format("{}-{:02}-{:02}", 1900 + parts.tm_year, 1 + parts.tm_mon, parts.tm_mday);
}

// Where one line of results goes: the table and, when asked for, the file.
class Report {
 public:
  Report(const BenchOpCuda& options, const cuda::DeviceFacts& device)
      : options_(options), device_(device) {
    if (!options.json.empty()) file_.open(options.json, std::ios::app);
  }
  bool ok() const { return options_.json.empty() || file_.good(); }

  void ceilings(const Ceilings& c) {
    fmt::print(
        "{}\nceilings: copy {:.0f} GB/s, read {:.0f} GB/s, fp8 {:.0f} TFLOP/s, bf16 {:.0f} "
        "TFLOP/s, "
        "empty node {:.2f} us\n",
        device_.describe(),
        c.copy_GBps,
        c.read_GBps,
        c.fp8_TFLOPS,
        c.bf16_TFLOPS,
        c.empty_node_us
    );
    write(
        {{"op", "ceilings"},
         {"copy_GBps", c.copy_GBps},
         {"read_GBps", c.read_GBps},
         {"fp8_TFLOPS", c.fp8_TFLOPS},
         {"bf16_TFLOPS", c.bf16_TFLOPS},
         {"empty_node_us", c.empty_node_us}}
    );
  }

  void line(
      const std::string& op,
      const ErasedCase& c,
      const std::string& row,
      const Times& t,
      const Cost& cost,
      const Ceilings& limits
  ) {
    const double GBps = cost.bytes / t.median_us * 1e-3;
    const double TFLOPS = cost.flops / t.median_us * 1e-6;
    fmt::print(
        "{:<18} {:<24} {:<14} {:9.2f} us [{:.2f}, {:.2f}] {:7.0f} GB/s {:5.1f} % {:7.1f} TFLOP/s\n",
        op,
        c.name,
        row,
        t.median_us,
        t.least_us,
        t.most_us,
        GBps,
        100 * GBps / limits.read_GBps,
        TFLOPS
    );
    std::fflush(stdout);
    write(
        {{"op", op},
         {"case", c.name},
         {"row", row},
         {"us", t.median_us},
         {"us_least", t.least_us},
         {"us_most", t.most_us},
         {"nodes", t.nodes},
         {"bytes", cost.bytes},
         {"flops", cost.flops}}
    );
  }

 private:
  void write(nlohmann::ordered_json record) {
    if (!file_.is_open()) return;
    record["device"] = device_.name;
    record["date"] = today();
    record["commit"] = FATHOM_COMMIT;
    record["method"] = options_.dirty_l2 ? "graph chain, dirty L2" : "graph chain, cold clean L2";
    file_ << record.dump() << '\n' << std::flush;
  }

  const BenchOpCuda& options_;
  const cuda::DeviceFacts& device_;
  std::ofstream file_;
};

// On the first row that takes the case, or the one asked for.
void bench_case(
    const OpSuite& suite,
    const ErasedCase& c,
    const BenchOpCuda& options,
    DeviceBench& bench,
    const Ceilings& limits,
    Report& report
) {
  for (const RowInfo& row : suite.rows) {
    if (row.device != Device::Kind::cuda) continue;
    if (options.row.empty() ? row.name == "cuda_plain" : row.name != options.row) continue;
    Cost cost;
    const Times times = bench.time_case(c, row.name, cost);
    if (times.nodes == 0) continue;
    report.line(suite.op, c, row.name, times, cost, limits);
    return;
  }
}

}  // namespace

int bench_op_cuda(const BenchOpCuda& options) {
  const Result<cuda::DeviceFacts> facts = cuda::open_device(0);
  if (!facts) {
    fmt::print(stderr, "{}\n", facts.error().message);
    return 1;
  }
  Report report(options, *facts);
  if (!report.ok()) {
    fmt::print(stderr, "{}: cannot be written\n", options.json);
    return 1;
  }
  DeviceExec device(Device::cuda());
  DeviceBench bench(device, options.dirty_l2);
  const Ceilings limits = testing::measure_ceilings(bench, device);
  report.ceilings(limits);
  bool found = options.op == "all";
  for (const OpSuite& suite : testing::all_op_suites()) {
    if (options.op != "all" && suite.op != options.op) continue;
    found = true;
    for (const ErasedCase& c : suite.cases) {
      if (!takes_case(options.case_name, c)) continue;
      bench_case(suite, c, options, bench, limits, report);
    }
  }
  if (!found) fmt::print(stderr, "no op is named {}\n", options.op);
  return found ? 0 : 1;
}

#else

int bench_op_cuda(const BenchOpCuda&) {
  fmt::print(stderr, "cuda: this program was built without CUDA; build preset cuda-release\n");
  return 1;
}

#endif

}  // namespace fathom
