#include "apps/step_profile_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

namespace fathom::apps {
namespace {

struct Row {
  std::string_view op;
  double calls = 0, us = 0, runs = 0, unfinished = 0, signals = 0, late = 0;

  void add(const StepProfile::Entry& entry, double share) {
    const auto us_of = [&](int64_t ns) { return share * static_cast<double>(ns) / 1e3; };
    calls += share * static_cast<double>(entry.calls);
    us += us_of(entry.nanoseconds);
    runs += share * static_cast<double>(entry.pool.runs);
    unfinished += us_of(entry.pool.unfinished);
    signals += us_of(entry.pool.signals);
    late += us_of(entry.pool.late);
  }
  void print(double step_us) const {
    fmt::print(
        "{:<18} {:>6.1f} {:>9.1f} {:>6.2f} {:>9.1f} {:>11.1f} {:>9.1f} {:>7.1f}\n",
        op,
        calls,
        us,
        100 * us / step_us,
        runs,
        unfinished,
        signals,
        late
    );
  }
};

std::vector<size_t> middle_half(const std::vector<double>& seconds) {
  std::vector<size_t> order(seconds.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return seconds[a] < seconds[b];
  });
  const auto quarter = static_cast<std::ptrdiff_t>(order.size() / 4);
  return {order.begin() + quarter, order.end() - quarter};
}

Row& row_of(std::vector<Row>& rows, std::string_view op) {
  const auto found =
      std::find_if(rows.begin(), rows.end(), [&](const Row& r) { return r.op == op; });
  if (found != rows.end()) return *found;
  return rows.emplace_back(Row{.op = op});
}

}  // namespace

void print_step_profile(
    const std::vector<double>& seconds, const std::vector<StepProfile>& profiles
) {
  const std::vector<size_t> steps = middle_half(seconds);
  const double share = 1.0 / static_cast<double>(steps.size());
  std::vector<Row> rows;
  Row all{.op = "all ops"}, outside{.op = "between ops"};
  double step_us = 0;
  for (const size_t step : steps) {
    step_us += share * seconds[step] * 1e6;
    for (const StepProfile::Entry& entry : profiles[step]) {
      row_of(rows, entry.op).add(entry, share);
      all.add(entry, share);
    }
  }
  outside.us = step_us - all.us;
  fmt::print(
      "a decode step          calls        us      %  parallel  unfinished   signals    late\n"
  );
  for (const Row& row : rows) row.print(step_us);
  all.print(step_us);
  outside.print(step_us);
  const auto percent = [&](double us) { return 100 * us / step_us; };
  fmt::print(
      "outside kernels {:.2f} %: between ops {:.2f}, signals {:.2f}; waiting for threads at work "
      "{:.2f}\n",
      percent(outside.us + all.signals),
      percent(outside.us),
      percent(all.signals),
      percent(all.unfinished)
  );
  std::fflush(stdout);
}

}  // namespace fathom::apps
