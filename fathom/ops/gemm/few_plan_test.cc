// How bf16_gemm's row of few tokens cuts its work.
#include <gtest/gtest.h>

#include "fathom/ops/gemm/bf16_gemm_rows.h"

namespace fathom::ops {
namespace {

constexpr int kProcessors = 132;

TEST(FewPlanTest, PartsFindRoomAtOnce) {
  for (const int64_t tokens : {2, 16, 17, 32, 33, 128}) {
    for (const int64_t K : {64, 2048, 14336}) {
      for (int64_t outputs = 1; outputs <= 20000; outputs += 63) {
        const FewPlan plan = plan_few(tokens, outputs, K, kProcessors);
        ASSERT_GE(plan.parts, 1);
        ASSERT_LE(plan.parts, tokens <= 32 ? 8 : plan.whole ? 4 : 1);
        const int64_t ctas = (outputs + kFewOutputs - 1) / kFewOutputs * plan.parts;
        ASSERT_LE(plan.parts > 1 ? ctas : 0, kProcessors * (plan.whole ? 1 : 2));
        ASSERT_LE(plan.parts > 2 && plan.whole ? ctas : 0, kProcessors * 7 / 8);
      }
    }
  }
}

// What was fastest, or nearly, of decode products of Llama-8B, DeepSeek-V2-Lite and DeepSeek-V3 on
// an H100.
TEST(FewPlanTest, TakesTheFastestMeasured) {
  struct Layer {
    int64_t outputs, K;
    FewPlan of_16, of_32, of_128;  // tokens
  };
  for (const Layer& l :
       {Layer{576, 2048, {6, true}, {6, true}, {4, true}},
        {1024, 4096, {8, false}, {8, false}, {4, true}},
        {2048, 2048, {4, false}, {4, false}, {2, true}},
        {2112, 7168, {6, false}, {3, true}, {3, true}},
        {2048, 10944, {3, true}, {3, true}, {3, true}},
        {3072, 1536, {3, false}, {3, false}, {2, true}},
        {3072, 2048, {4, false}, {4, false}, {2, true}},
        {4096, 4096, {3, false}, {2, true}, {2, true}},
        {4096, 14336, {2, true}, {2, true}, {2, true}},
        {6144, 4096, {1, true}, {1, true}, {1, true}},
        {28672, 4096, {1, false}, {1, false}, {1, false}},
        {102400, 2048, {1, false}, {1, false}, {1, false}}}) {
    for (const int64_t tokens : {8, 16, 32, 64, 128}) {
      const FewPlan plan = plan_few(tokens, l.outputs, l.K, kProcessors);
      const FewPlan& wanted = tokens <= 16 ? l.of_16 : tokens <= 32 ? l.of_32 : l.of_128;
      EXPECT_EQ(plan.parts, wanted.parts) << l.outputs << " outputs, " << tokens << " tokens";
      EXPECT_EQ(plan.whole, wanted.whole) << l.outputs << " outputs, " << tokens << " tokens";
    }
  }
}

}  // namespace
}  // namespace fathom::ops
