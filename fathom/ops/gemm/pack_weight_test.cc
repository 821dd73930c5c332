// A packed matrix decodes to exactly the values of its source, padding rows to zero.
#include "fathom/ops/gemm/pack_weight.h"

#include <gtest/gtest.h>

#include <vector>

#include "fathom/testing/random_weight.h"

namespace fathom::ops {
namespace {

using testing::CaseInputs;

class PackWeightTest : public ::testing::TestWithParam<DType> {};

TEST_P(PackWeightTest, DecodesToItsSource) {
  const DType packed_type = GetParam();
  const int64_t N = 45, K = 768;
  CaseInputs in(7);
  ThreadPool pool(2);
  const Exec exec{.pool = &pool};
  const Tensor source = testing::random_weight(in, unpacked_dtype(packed_type), N, K);
  const Tensor packed = in.output(packed_type, {packed_rows(packed_type, N), K});
  pack_weight(exec, {.source = source, .packed = packed});
  std::vector<float> wanted(K), got(K);
  for (int64_t n = 0; n < N; ++n) {
    decode_row(source, n, wanted.data());
    decode_row(packed, n, got.data());
    ASSERT_EQ(wanted, got) << "row " << n;
  }
  for (int64_t n = N; n < packed.dim(0); ++n) {
    decode_row(packed, n, got.data());
    for (const float v : got) ASSERT_EQ(v, 0.0f) << "padding row " << n;
  }
  EXPECT_TRUE(in.red_zones_intact());
}

INSTANTIATE_TEST_SUITE_P(
    Types,
    PackWeightTest,
    ::testing::Values(
        DType::q8_0x16,
        DType::q4_0x16,
        DType::q4_1x16,
        DType::q5_0x16,
        DType::q5_1x16,
        DType::q4_kx16,
        DType::q5_kx16,
        DType::q6_kx16,
        DType::bf16x32,
        DType::f16x32,
        DType::f32x32,
        DType::f8e4m3x32,
        DType::i8x16
    ),
    [](const auto& type) { return std::string(name(type.param)); }
);

TEST(PackedDtype, KeepsWhatDoesNotDivide) {
  EXPECT_EQ(packed_dtype(DType::q4_k, 512), DType::q4_kx16);
  EXPECT_EQ(packed_dtype(DType::bf16, 77), DType::bf16);
  EXPECT_EQ(packed_dtype(DType::i8, 96), DType::i8x16);
  EXPECT_EQ(packed_dtype(DType::i8, 80), DType::i8);
  EXPECT_EQ(packed_dtype(DType::i32, 64), DType::i32);
  EXPECT_EQ(packed_rows(DType::q4_1x16, 33), 48);
  EXPECT_EQ(packed_rows(DType::bf16x32, 33), 64);
  EXPECT_EQ(packed_rows(DType::bf16, 33), 33);
}

}  // namespace
}  // namespace fathom::ops
