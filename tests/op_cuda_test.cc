// Every case of every op on every CUDA row, against the reference (large cases: against the op's
// plain CUDA row). A row's inputs are written late by its predecessor, so that reading one before
// the wait fails the case. Needs a GPU: label gpu.
#include <gtest/gtest.h>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/stream.h"
#include "fathom/ops/norm/rms_norm_quant.h"
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

// Of a step of few tokens and of many, whose CTAs have other shapes.
TEST(OpCudaBits, ANormThatQuantisesHasTheBitsOfItsParts) {
  DeviceExec device(Device::cuda());
  const auto& table = ops::rms_norm_quant_table();
  for (const int64_t tokens : {3, 700}) {
    const auto run = [&](CaseInputs& in, const char* row) {
      ops::RmsNormQuant args{
          .x = in.normal(DType::bf16, {tokens, 7168}),
          .weight = in.normal(DType::f32, {7168}, 0.3f),
          .residual = in.normal(DType::bf16, {tokens, 7168}),
          .y = in.output(DType::f8e4m3, {tokens, 7168}),
          .scale = in.output(DType::f32, {56, tokens}),
      };
      const auto* found = detail::find_row(table, row, Device::Kind::cuda);
      EXPECT_TRUE(detail::run_row(*found, args, device.exec(), false));
      return args;
    };
    CaseInputs one(7), two(7);
    const ops::RmsNormQuant got = run(one, "cuda_vec"), wanted = run(two, "cuda_parts");
    EXPECT_EQ(compare(got.y, wanted.y, {}), "");
    EXPECT_EQ(compare(got.scale, wanted.scale, {}), "");
    EXPECT_EQ(compare(got.residual, wanted.residual, {}), "");
  }
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
