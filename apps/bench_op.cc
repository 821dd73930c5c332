#include "apps/bench_op.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "apps/case_choice.h"
#include "fathom/base/cpu_features.h"
#include "fathom/testing/machine_rates.h"
#include "fathom/testing/op_case.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;
using testing::BenchRun;
using testing::ErasedCase;
using testing::MultiplyRates;
using testing::OpSuite;

// A case's copies together read about this much, more than the caches that belong to one core.
constexpr double kTouchedBytes = 64e6;
constexpr double kMeasuredSeconds = 0.3;
constexpr size_t kLeastRounds = 5;

struct Timing {
  double us = 0;  // median of a single run
  double read_bytes_per_s = 0;
  double peak_flops_per_s = 0;  // of the instructions that the row multiplies with
  Cost cost;
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<long>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Microseconds from giving all threads nothing to do until they have done it, `idle` after the last
// time: at once, within the time that workers spin, or after they went to sleep.
double empty_run_us(const Exec& exec, std::chrono::microseconds idle) {
  std::vector<double> times;
  for (int i = 0; i < (idle.count() > 0 ? 51 : 10001); ++i) {
    if (idle.count() > 0) std::this_thread::sleep_for(idle);
    const auto start = Clock::now();
    exec.on_threads([](int, int) {});
    times.push_back(seconds_since(start) * 1e6);
  }
  return median(times);
}

// What a row's products could reach. Block-quantised ones multiply bytes, with two digits of each
// activation twice; rows named for bf16 products use those; all others floats.
double peak_of(const MultiplyRates& rates, const std::string& op, const std::string& row) {
  if (op == "gguf_gemm") return row.ends_with("_int8") ? rates.byte_flops : rates.byte_flops / 2;
  return row.starts_with("avx512_bf16") ? rates.bf16_flops : rates.float_flops;
}

// One round reads a buffer of the copies' size, multiplies from registers, then runs every copy
// once: all see the same second of a machine whose speed drifts.
Timing time_runs(
    const std::string& op, const std::string& row, const std::vector<BenchRun>& runs, Exec& exec
) {
  Timing timing{.cost = runs.front().cost};
  const double touched = timing.cost.bytes * static_cast<double>(runs.size());
  const int64_t read_bytes = std::max<int64_t>(static_cast<int64_t>(touched) / 4096, 1) * 4096;
  MemoryLedger ledger;
  Result<Buffer> buffer = Buffer::allocate(ledger, Device::cpu(), read_bytes, Purpose::workspace);
  CHECK(buffer.ok(), "{}", buffer.error().message);
  std::fill_n(static_cast<uint8_t*>(buffer->data()), read_bytes, uint8_t{1});
  std::vector<double> times, rates, peaks;
  const auto begin = Clock::now();
  while (times.size() < kLeastRounds || seconds_since(begin) < kMeasuredSeconds) {
    peaks.push_back(peak_of(testing::multiply_rates(exec), op, row));
    rates.push_back(testing::read_rate(exec, buffer->data(), read_bytes));
    const auto start = Clock::now();
    for (const BenchRun& run : runs) {
      Workspace::Mark mark(*exec.workspace);
      run.run(exec);
    }
    times.push_back(seconds_since(start) / static_cast<double>(runs.size()));
  }
  timing.us = median(times) * 1e6;
  timing.read_bytes_per_s = median(rates);
  timing.peak_flops_per_s = median(peaks);
  return timing;
}

class Report {
 public:
  explicit Report(const std::string& json) {
    if (!json.empty()) json_.open(json, std::ios::app);
  }

  void header(const Exec& exec) const {
    std::printf(
        "%s, %d threads, instructions found: %s\n",
        cpu_model_name().c_str(),
        exec.threads(),
        describe_cpu_features().c_str()
    );
    std::printf(
        "threads start and join in %.2f us, %.1f us when they sleep\n",
        empty_run_us(exec, std::chrono::microseconds(0)),
        empty_run_us(exec, std::chrono::microseconds(2000))
    );
    std::printf(
        "%-16s %-22s %-12s %11s %10s %11s %8s %7s %9s %7s\n",
        "op",
        "case",
        "row",
        "us",
        "MB",
        "MFLOP",
        "GB/s",
        "% read",
        "GFLOP/s",
        "% mult"
    );
  }

  void line(const std::string& op, const std::string& c, const std::string& row, const Timing& t) {
    const double bytes_per_s = t.cost.bytes / t.us * 1e6, flops = t.cost.flops / t.us * 1e6;
    std::printf(
        "%-16s %-22s %-12s %11.1f %10.3f %11.1f %8.1f %7.1f %9.1f %7.1f\n",
        op.c_str(),
        c.c_str(),
        row.c_str(),
        t.us,
        t.cost.bytes / 1e6,
        t.cost.flops / 1e6,
        bytes_per_s / 1e9,
        100 * bytes_per_s / t.read_bytes_per_s,
        flops / 1e9,
        100 * flops / t.peak_flops_per_s
    );
    std::fflush(stdout);
    if (!json_.is_open()) return;
    json_ << nlohmann::json{
                 {"op", op},
                 {"case", c},
                 {"row", row},
                 {"us", t.us},
                 {"bytes", t.cost.bytes},
                 {"flops", t.cost.flops},
                 {"read_bytes_per_s", t.read_bytes_per_s},
                 {"multiply_flops_per_s", t.peak_flops_per_s},
                 {"cpu", cpu_model_name()},
                 {"instructions", describe_cpu_features()},
             }
                 .dump()
          << '\n';
  }

 private:
  std::ofstream json_;
};

void bench_case(
    const OpSuite& suite,
    const ErasedCase& c,
    const BenchOpOptions& options,
    Exec& exec,
    Report& report
) {
  for (const testing::RowInfo& row : suite.rows) {
    if (row.device != exec.device.kind) continue;
    if (options.row.empty() ? row.name == "ref" : row.name != options.row) continue;
    const std::vector<BenchRun> runs = c.prepare(row.name, exec, [](const Cost& price) {
      return std::max(1, static_cast<int>(kTouchedBytes / std::max(price.bytes, 1e5)));
    });
    if (runs.empty()) continue;
    report.line(suite.op, c.name, row.name, time_runs(suite.op, row.name, runs, exec));
  }
}

}  // namespace

int bench_op(const BenchOpOptions& options) {
  MemoryLedger ledger;
  Result<Buffer> memory =
      Buffer::allocate(ledger, Device::cpu(), int64_t{1} << 30, Purpose::workspace);
  CHECK(memory.ok(), "{}", memory.error().message);
  Workspace workspace(std::move(*memory));
  ThreadPool pool(options.threads > 0 ? options.threads : usable_cpus());
  Exec exec{.workspace = &workspace, .pool = &pool};
  Report report(options.json);
  report.header(exec);
  bool found = false;
  for (const OpSuite& suite : testing::all_op_suites()) {
    if (options.op != "all" && options.op != suite.op) continue;
    for (const ErasedCase& c : suite.cases) {
      if (!takes_case(options.case_name, c)) continue;
      found = true;
      bench_case(suite, c, options, exec, report);
    }
  }
  if (found) return 0;
  std::fprintf(
      stderr,
      "bench op: no op '%s' with case '%s'; known ops:",
      options.op.c_str(),
      options.case_name.c_str()
  );
  for (const OpSuite& suite : testing::all_op_suites())
    std::fprintf(stderr, " %s", suite.op.c_str());
  std::fprintf(stderr, "\n");
  return 2;
}

}  // namespace fathom
