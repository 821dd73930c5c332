// Cases of an op: shapes and inputs by name, made from a seed. The same cases feed the test (every
// row against the reference) and the bench. Linked by tests, bench and doctor only.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fathom/core/kernel_table.h"
#include "fathom/core/workspace.h"
#include "fathom/testing/compare.h"

namespace fathom::testing {

// Makes and owns the tensors of one case, in host memory, between red zones. Same seed, same data.
class CaseInputs {
 public:
  explicit CaseInputs(uint64_t seed) : random_(seed) {}

  // Normal with the given deviation, rounded to the dtype (f32, f16, bf16, f8e4m3). Millions of
  // elements repeat a long odd period.
  Tensor normal(DType dtype, std::initializer_list<int64_t> dims, float deviation = 1.0f);
  Tensor integers(
      DType dtype, std::initializer_list<int64_t> dims, int64_t low, int64_t high
  );  // [low, high]
  Tensor values(std::initializer_list<int64_t> dims, const std::vector<int32_t>& data);  // i32
  // Filled with a poison pattern: every element must be written.
  Tensor output(DType dtype, std::initializer_list<int64_t> dims);
  // Raw storage, zeroed: for what the helpers above cannot make.
  Tensor storage(DType dtype, std::initializer_list<int64_t> dims);

  std::mt19937_64& random() { return random_; }
  // False when a kernel wrote outside its tensors.
  bool red_zones_intact() const;

 private:
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  struct Block {
    std::unique_ptr<uint8_t[], Free> memory;
    size_t bytes = 0;
  };
  std::vector<Block> blocks_;
  std::mt19937_64 random_;
};

template <class Args>
struct OpCase {
  std::string name;  // "llama_8b_t1"; edges: "t0", "odd"
  std::function<Args(CaseInputs&)> make;
  Bound bound;         // with its reason in a comment at the case
  bool bench = false;  // a shape worth timing
  // Checked on a GPU only, against its plain row "cuda_plain": the reference alone takes seconds.
  bool large = false;
};

struct RowInfo {
  std::string name;
  Device::Kind device;
};

// What a check of one case on one row found.
struct CheckReport {
  bool supported = true;  // the row takes these arguments
  std::string failure;    // "" when within the bound
};

// What one timed run needs; made once, run many times.
struct BenchRun {
  std::function<void(Exec&)> run;
  Cost cost;
  std::shared_ptr<void> memory;
};

using CopiesOf = std::function<int(const Cost&)>;

// One case with its types erased.
struct ErasedCase {
  std::string name;
  bool bench = false;
  bool large = false;
  std::function<CheckReport(const std::string& row, Exec&)> check;
  // Empty when the row does not take the case. As many instances over distinct memory, to be run in
  // turn, as `copies_of` its price says.
  std::function<std::vector<BenchRun>(const std::string& row, Exec&, const CopiesOf& copies_of)>
      prepare;
};

struct OpSuite {
  std::string op;
  std::vector<RowInfo> rows;
  std::vector<ErasedCase> cases;
};

// All suites named by fathom_op() in fathom/ops/CMakeLists.txt.
std::vector<OpSuite> all_op_suites();

namespace detail {

// A host workspace for references; its pages become resident as they are touched.
class HostWorkspace {
 public:
  HostWorkspace();
  Workspace* get() const { return workspace_.get(); }

 private:
  std::unique_ptr<MemoryLedger> ledger_;
  std::unique_ptr<Workspace> workspace_;
};

inline constexpr uint64_t kSeed = 20260101;

template <class Args>
const KernelRow<Args>* find_row(
    const KernelTable<Args>& table, const std::string& name, Device::Kind device
) {
  for (const KernelRow<Args>& row : table.rows) {
    if (row.name == name && row.device == device) return &row;
  }
  return nullptr;
}

// Runs the row on exec's device over copies of host arguments; false when it does not take them.
// `late`: on a GPU its inputs are written late, as a predecessor's outputs are.
template <class Args>
bool run_row(const KernelRow<Args>& row, Args& args, Exec& exec, bool late) {
  DeviceMirror mirror(exec.device);
  for_each_tensor(args, [&](std::string_view, Tensor& t, Role role) { mirror.to_device(t, role); });
  const bool supported = row.supports == nullptr || row.supports(exec, args);
  if (supported) {
    if (late && exec.device.is_cuda()) mirror.delay_inputs(exec);
    Workspace::Mark mark(*exec.workspace);
    row.run(exec, args);
    mirror.to_host();
  }
  for_each_tensor(args, [&](std::string_view, Tensor& t, Role role) { mirror.restore(t, role); });
  return supported;
}

template <class Args>
void run_reference(
    const KernelTable<Args>& table, const OpCase<Args>& c, Args& wanted, Exec& exec
) {
  const KernelRow<Args>* plain = find_row(table, "cuda_plain", Device::Kind::cuda);
  if (c.large && exec.device.is_cuda() && plain != nullptr) {
    CHECK(run_row(*plain, wanted, exec, false), "op {}: cuda_plain takes every case", table.op);
    return;
  }
  const KernelRow<Args>& reference = table.rows.back();
  CHECK(reference.name == "ref", "op {}: the last row must be ref", table.op);
  // On a GPU the workspace is the device's: the reference brings its own.
  const HostWorkspace workspace;
  Exec host = exec;
  host.device = Device::cpu();
  host.workspace = workspace.get();
  reference.run(host, wanted);
}

template <class Args>
CheckReport check_case(
    const KernelTable<Args>& table, const OpCase<Args>& c, const std::string& row_name, Exec& exec
) {
  const KernelRow<Args>* row = find_row(table, row_name, exec.device.kind);
  CHECK(row != nullptr, "op {} has no row {} on {}", table.op, row_name, exec.device.describe());
  CaseInputs wanted_inputs(kSeed), got_inputs(kSeed);
  Args wanted = c.make(wanted_inputs);
  Args got = c.make(got_inputs);
  if (!run_row(*row, got, exec, true)) return {.supported = false};
  run_reference(table, c, wanted, exec);

  CheckReport report;
  std::vector<std::pair<Tensor, bool>> references;
  for_each_tensor(wanted, [&](std::string_view, Tensor& t, Role role) {
    references.emplace_back(t, role == Role::out || role == Role::inout);
  });
  size_t i = 0;
  for_each_tensor(got, [&](std::string_view name, Tensor& t, Role) {
    const auto& [reference_tensor, compared] = references[i++];
    if (!compared || !report.failure.empty()) return;
    const std::string difference = compare(t, reference_tensor, c.bound);
    if (!difference.empty()) report.failure = fmt::format("{}: {}", name, difference);
  });
  if (report.failure.empty() && !got_inputs.red_zones_intact())
    report.failure = "a red zone was written";
  return report;
}

template <class Args>
std::vector<BenchRun> prepare_case(
    const KernelTable<Args>& table,
    const OpCase<Args>& c,
    const std::string& row_name,
    Exec& exec,
    const CopiesOf& copies_of
) {
  const KernelRow<Args>* row = find_row(table, row_name, exec.device.kind);
  CHECK(row != nullptr, "op {} has no row {} on {}", table.op, row_name, exec.device.describe());
  struct Instance {
    CaseInputs inputs{kSeed};
    std::unique_ptr<DeviceMirror> mirror;
    Args args;
  };
  const auto first = std::make_shared<Instance>();
  first->args = c.make(first->inputs);
  const Cost price = cost(first->args);
  first->mirror = std::make_unique<DeviceMirror>(exec.device);
  int64_t weight_bytes = 0, all_bytes = 0;
  for_each_tensor(first->args, [&](std::string_view, Tensor& t, Role role) {
    (role == Role::weight ? weight_bytes : all_bytes) += extent_bytes(t);
    first->mirror->to_device(t, role);
  });
  if (row->supports != nullptr && !row->supports(exec, first->args)) return {};
  // Where weights are most of the bytes the copies share their activations, as a chain of layers
  // does; else every tensor has its own memory.
  const bool share = weight_bytes > all_bytes;
  const int copies = copies_of(price);
  std::vector<BenchRun> runs;
  for (int i = 0; i < copies; ++i) {
    auto instance = i == 0 ? first : std::make_shared<Instance>();
    if (i > 0 && exec.device.is_cpu()) {
      instance->args = c.make(instance->inputs);
    } else if (i > 0) {
      instance->args = first->args;
      instance->mirror = std::make_unique<DeviceMirror>(exec.device);
      for_each_tensor(instance->args, [&](std::string_view, Tensor& t, Role role) {
        if (role == Role::weight || !share) instance->mirror->duplicate(t);
      });
    }
    runs.push_back({
        .run = [row, raw = instance.get()](Exec& e) { row->run(e, raw->args); },
        .cost = price,
        .memory = std::make_shared<std::pair<std::shared_ptr<Instance>, std::shared_ptr<Instance>>>(
            first, instance
        ),
    });
  }
  return runs;
}

}  // namespace detail

template <class Args>
OpSuite make_suite(const KernelTable<Args>& table, std::vector<OpCase<Args>> cases) {
  OpSuite suite{.op = std::string(table.op)};
  for (const KernelRow<Args>& row : table.rows)
    suite.rows.push_back({std::string(row.name), row.device});
  for (OpCase<Args>& c : cases) {
    auto shared = std::make_shared<OpCase<Args>>(std::move(c));
    suite.cases.push_back({
        .name = shared->name,
        .bench = shared->bench,
        .large = shared->large,
        .check = [&table, shared](
                     const std::string& row, Exec& exec
                 ) { return detail::check_case(table, *shared, row, exec); },
        .prepare = [&table, shared](
                       const std::string& row, Exec& exec, const CopiesOf& copies_of
                   ) { return detail::prepare_case(table, *shared, row, exec, copies_of); },
    });
  }
  return suite;
}

}  // namespace fathom::testing
