// Every case of every op on every CUDA row, against the reference (large cases: against the op's
// plain CUDA row). A row's inputs are written late by its predecessor, so that reading one before
// the wait fails the case. Needs a GPU: label gpu.
#include <gtest/gtest.h>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/stream.h"
#include "fathom/ops/element.h"
#include "fathom/ops/gemm/w8a8_gemm.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/norm/rms_norm_quant.h"
#include "fathom/testing/cuda/device_bench.h"
#include "fathom/testing/op_case.h"
#include "fathom/testing/random_weight.h"

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

// w8a8_gemm [M, 256] with weights of `form`, tokens 1 and 2 having a value that is not finite.
ops::W8a8Gemm unhealthy_product(CaseInputs& in, DType form, DType x, int64_t M) {
  constexpr int64_t kN = 200, kK = 2304;
  ops::W8a8Gemm args{.x = in.normal(x, {M, kK}), .y = in.output(DType::f32, {M, kN})};
  const auto put = [&](int64_t m, int64_t k, float v) {
    ops::store_element(args.x, m * kK + k, v);
  };
  put(1, 40, std::numeric_limits<float>::quiet_NaN());
  put(2, kK - 1, -std::numeric_limits<float>::infinity());
  const Tensor plain = random_weight(in, form, kN, kK);
  const DType tiled = ops::tiled_dtype(form, kK);
  args.w.data = in.storage(tiled, {ops::tiled_rows(kN), kK});
  ops::tile_weight(Exec{}, {.source = plain, .tiled = args.w.data});
  args.w.scale = in.storage(DType::f32, {kN});
  std::fill_n(args.w.scale.as<float>(), kN, 0.5f);
  return args;
}

// Whoever rounds a token by its largest magnitude must not overlook NaN, which no comparison finds.
TEST(OpCudaBits, ATokenThatIsNotFiniteShowsInAllItsOutputsAndInNoOthers) {
  DeviceExec device(Device::cuda());
  const auto& table = ops::w8a8_gemm_table();
  for (const DType form : {DType::i8, DType::f8e4m3}) {
    for (const DType x : {DType::bf16, DType::f32}) {
      for (const int64_t M : {5, 60, 100, 200}) {
        for (const char* row : {"skinny", "tile_sm90"}) {
          CaseInputs in(11);
          ops::W8a8Gemm args = unhealthy_product(in, form, x, M);
          const auto* found = detail::find_row(table, row, Device::Kind::cuda);
          ASSERT_NE(found, nullptr);
          if (!found->supports(device.exec(), args)) continue;
          EXPECT_TRUE(detail::run_row(*found, args, device.exec(), false));
          for (int64_t m = 0; m < M; ++m) {
            const float* y = args.y.row(m).as<float>();
            const auto finite = std::count_if(y, y + 200, [](float v) { return std::isfinite(v); });
            EXPECT_EQ(finite, m == 1 || m == 2 ? 0 : 200)
                << row << ", " << name(form) << ", token " << m << " of " << M;
          }
        }
      }
    }
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
