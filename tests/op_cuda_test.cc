// Every case of every op on every CUDA row, against the reference (large cases: against the op's
// plain CUDA row). A row's inputs are written late by its predecessor, so that reading one before
// the wait fails the case. Needs a GPU: label gpu.
#include <gtest/gtest.h>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/stream.h"
#include "fathom/testing/cuda/device_bench.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

struct Instance {
  std::string op, row, name;
  std::function<CheckReport(const std::string&, Exec&)> check;
};

std::vector<Instance> instances() {
  std::vector<Instance> all;
  for (const OpSuite& suite : all_op_suites()) {
    for (const RowInfo& row : suite.rows) {
      if (row.device != Device::Kind::cuda) continue;
      for (const ErasedCase& c : suite.cases) all.push_back({suite.op, row.name, c.name, c.check});
    }
  }
  return all;
}

class OpCudaTest : public ::testing::TestWithParam<Instance> {
 protected:
  static void SetUpTestSuite() {
    const Result<cuda::DeviceFacts> device = cuda::open_device(0);
    ASSERT_TRUE(device.ok()) << device.error().message;
    bench_ = std::make_unique<DeviceExec>(Device::cuda());
  }
  static void TearDownTestSuite() { bench_.reset(); }
  static std::unique_ptr<DeviceExec> bench_;
};

std::unique_ptr<DeviceExec> OpCudaTest::bench_;

TEST_P(OpCudaTest, MatchesReference) {
  const CheckReport report = GetParam().check(GetParam().row, bench_->exec());
  if (!report.supported) return;
  EXPECT_EQ(report.failure, "");
  EXPECT_TRUE(bench_->semaphores_are_zero());
}

INSTANTIATE_TEST_SUITE_P(
    Cuda,
    OpCudaTest,
    ::testing::ValuesIn(instances()),
    [](const auto& instance) {
      return instance.param.op + "__" + instance.param.row + "__" + instance.param.name;
    }
);

}  // namespace
}  // namespace fathom::testing
