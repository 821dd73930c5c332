// Kernel tables: the rows that can compute one op, best first, the plain reference last
// (docs/architecture.md, Ops).
//
// Args is the op's argument struct. Beside it the op's header declares, found by argument-dependent
// lookup:
//   Cost cost(const Args&);                          bytes moved and flops done, at least
//   template <class F> void for_each_tensor(Args&, F f);   f("name", Tensor&, Role) for each
//   defined tensor
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "fathom/base/check.h"
#include "fathom/core/exec.h"
#include "fathom/core/host_copy.h"
#include "fathom/core/role.h"
#include "fathom/core/step_profile.h"

namespace fathom {

struct Cost {
  double bytes = 0;
  double flops = 0;
};

template <class Args>
struct KernelRow {
  std::string_view name;  // says what it is: "ref", "simd", "sm90"; never fast, opt, v2
  Device::Kind device = Device::Kind::cpu;
  bool (*supports
  )(const Exec&, const Args&) = nullptr;  // null: every argument that passed the op's checks
  void (*run)(Exec&, const Args&) = nullptr;
};

template <class Args>
struct KernelTable {
  std::string_view op;
  std::span<const KernelRow<Args>> rows;

  // The first row that may run; CHECKs that there is one. On a CUDA device the reference stands in
  // for every row that is missing: it runs on the host.
  const KernelRow<Args>& choose(const Exec& exec, const Args& args) const {
    const std::string_view forced = exec.kernels == nullptr ? "" : exec.kernels->forced_row(op);
    for (const KernelRow<Args>& row : rows) {
      if (row.device != exec.device.kind && &row != &rows.back()) continue;
      if (!forced.empty() && row.name != forced) continue;
      if (forced.empty() && exec.kernels != nullptr && !exec.kernels->allows(op, row.name))
        continue;
      if (row.supports == nullptr || row.supports(exec, args)) return row;
    }
    CHECK(
        false,
        "op {}: no row on {} takes these arguments (forced: '{}')",
        op,
        exec.device.describe(),
        forced
    );
    __builtin_unreachable();
  }

  void run(Exec& exec, const Args& args) const {
    const KernelRow<Args>& row = choose(exec, args);
    const StepProfile::Call measured(exec.profile, op);
    if (exec.counters != nullptr) exec.counters->count(&row, op, row.name);
    if (row.device == exec.device.kind) {
      row.run(exec, args);
    } else {
      run_on_host(row, exec, args);
    }
  }

  // A CPU row on a CUDA device's arguments: copied to the host, and what it wrote copied back.
  static void run_on_host(const KernelRow<Args>& row, const Exec& exec, const Args& args) {
    HostCopies copies(exec);
    Args host = args;
    for_each_tensor(host, [&](std::string_view, Tensor& t, Role role) { copies.fetch(t, role); });
    row.run(copies.host(), host);
    copies.write_back();
  }
};

}  // namespace fathom
