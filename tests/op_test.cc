// Every case of every op on every row that this machine can run, against the reference.
#include <gtest/gtest.h>

#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

struct Instance {
  std::string op, row, name;
  std::function<CheckReport(const std::string&, Exec&)> check;
};

std::vector<Instance> instances(Device::Kind device) {
  std::vector<Instance> all;
  for (const OpSuite& suite : all_op_suites()) {
    for (const RowInfo& row : suite.rows) {
      if (row.device != device) continue;
      for (const ErasedCase& c : suite.cases) {
        if (!c.large) all.push_back({suite.op, row.name, c.name, c.check});
      }
    }
  }
  return all;
}

class OpTest : public ::testing::TestWithParam<Instance> {};

TEST_P(OpTest, MatchesReference) {
  MemoryLedger ledger;
  Result<Buffer> memory =
      Buffer::allocate(ledger, Device::cpu(), int64_t{1} << 30, Purpose::workspace);
  ASSERT_TRUE(memory.ok());
  Workspace workspace(std::move(*memory));
  ThreadPool pool(2);
  Exec exec{.workspace = &workspace, .pool = &pool};
  const CheckReport report = GetParam().check(GetParam().row, exec);
  if (!report.supported) return;
  EXPECT_EQ(report.failure, "");
}

INSTANTIATE_TEST_SUITE_P(
    Cpu,
    OpTest,
    ::testing::ValuesIn(instances(Device::Kind::cpu)),
    [](const auto& instance) {
      return instance.param.op + "__" + instance.param.row + "__" + instance.param.name;
    }
);

}  // namespace
}  // namespace fathom::testing
