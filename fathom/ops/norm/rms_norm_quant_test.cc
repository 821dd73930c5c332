// A norm that quantises gives the bits of the norm and of the quantisation behind it.
#include "fathom/ops/norm/rms_norm_quant.h"

#include <gtest/gtest.h>

#include "fathom/testing/op_case.h"

namespace fathom::ops {
namespace {

using testing::CaseInputs;

RmsNormQuant make_case(CaseInputs& in, DType dtype, bool residual) {
  RmsNormQuant args;
  args.x = in.normal(dtype, {9, 640});
  args.weight = in.normal(DType::f32, {640}, 0.3f);
  if (residual) args.residual = in.normal(dtype, {9, 640});
  args.y = in.output(DType::f8e4m3, {9, 640});
  args.scale = in.output(DType::f32, {5, 12}).slice(1, 0, 9);
  return args;
}

TEST(RmsNormQuantTest, TheBitsOfItsParts) {
  const testing::detail::HostWorkspace workspace;
  ThreadPool pool(2);
  Exec exec{.workspace = workspace.get(), .pool = &pool};
  const auto& table = rms_norm_quant_table();
  const auto* parts = testing::detail::find_row(table, "parts", Device::Kind::cpu);
  ASSERT_NE(parts, nullptr);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool residual : {false, true}) {
      CaseInputs wanted_inputs(5);
      RmsNormQuant wanted = make_case(wanted_inputs, dtype, residual);
      parts->run(exec, wanted);
      for (const KernelRow<RmsNormQuant>& row : table.rows) {
        CaseInputs inputs(5);
        RmsNormQuant got = make_case(inputs, dtype, residual);
        if (row.device != Device::Kind::cpu || row.name == "ref") continue;
        if (row.supports != nullptr && !row.supports(exec, got)) continue;
        row.run(exec, got);
        EXPECT_EQ(testing::compare(got.y, wanted.y, {}), "") << row.name;
        EXPECT_EQ(testing::compare(got.scale, wanted.scale, {}), "") << row.name;
        if (!residual) continue;
        EXPECT_EQ(testing::compare(got.residual, wanted.residual, {}), "") << row.name;
      }
    }
  }
}

}  // namespace
}  // namespace fathom::ops
