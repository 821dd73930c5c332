// The promise of the CPU's packed products: an output's bits depend on its row of x and its row of
// W alone, whatever the batch, the chunking, the threads or the instruction level.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "fathom/ops/gemm/bf16_gemm.h"
#include "fathom/ops/gemm/fp8_block_gemm.h"
#include "fathom/ops/gemm/gguf_gemm.h"
#include "fathom/ops/gemm/w8a8_gemm.h"
#include "fathom/testing/random_weight.h"

namespace fathom::ops {
namespace {

using testing::CaseInputs;

constexpr int64_t kM = 61, kN = 100, kK = 1536;

// Runs one row of a table on tokens [from, from + n) of x, on `threads` threads.
template <class Args>
void run(const KernelRow<Args>& row, Args args, int64_t from, int64_t n, int threads) {
  MemoryLedger ledger;
  Result<Buffer> memory = Buffer::allocate(ledger, Device::cpu(), 1 << 24, Purpose::workspace);
  Workspace workspace(std::move(*memory));
  ThreadPool pool(threads);
  Exec exec{.workspace = &workspace, .pool = &pool};
  args.x = args.x.slice(0, from, n);
  args.y = args.y.slice(0, from, n);
  row.run(exec, args);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
}

// args: all but y.
template <class Args>
void expect_same_bits(const KernelTable<Args>& table, CaseInputs& in, Args args, DType weight) {
  // Rows that round activations further agree among themselves, and so do the others.
  Tensor wanted_of[2];
  for (const KernelRow<Args>& row : table.rows) {
    if (row.device != Device::Kind::cpu || row.name == "ref") continue;
    if (!row.supports(Exec{}, args)) continue;
    const std::string what = std::string(row.name) + " on " + std::string(name(weight));
    const auto fresh = [&] { return args.y = in.output(DType::f32, {kM, kN}); };
    const Tensor together = fresh();
    run(row, args, 0, kM, 1);
    const Tensor threaded = fresh();
    run(row, args, 0, kM, 3);
    EXPECT_TRUE(same_bits(together, threaded)) << what << ": threads change bits";
    const Tensor alone = fresh();
    for (int64_t m = 0; m < kM; ++m) run(row, args, m, 1, 2);
    EXPECT_TRUE(same_bits(together, alone)) << what << ": the batch changes bits";
    const Tensor chunked = fresh();
    for (int64_t m = 0, n = 1; m < kM; m += n, n = std::min<int64_t>(n + 1, kM - m))
      run(row, args, m, n, 2);
    EXPECT_TRUE(same_bits(together, chunked)) << what << ": chunks change bits";
    const bool rounds = row.name.ends_with("_int8") || row.name.ends_with("_rounded");
    Tensor& wanted = wanted_of[rounds ? 1 : 0];
    if (!wanted.defined()) wanted = together;
    EXPECT_TRUE(same_bits(wanted, together)) << what << ": the instruction level changes bits";
  }
  EXPECT_TRUE(in.red_zones_intact());
}

template <class Args>
void expect_same_bits(const KernelTable<Args>& table, DType weight) {
  CaseInputs in(3);
  Args args;
  args.x = in.normal(DType::f32, {kM, kK});
  args.weight = testing::random_weight(in, weight, kN, kK);
  args.bias = in.normal(DType::f32, {kN});
  expect_same_bits(table, in, args, weight);
}

// A token whose values are not finite says so in all its outputs, and no other token hears of it.
template <class Args>
void expect_unhealthy_rows(const KernelTable<Args>& table, CaseInputs& in, Args args) {
  constexpr int64_t kNan = 5, kInf = 9;
  const Tensor clean = args.x, faulty = in.output(DType::f32, {kM, kK});
  std::memcpy(faulty.data, clean.data, static_cast<size_t>(clean.bytes()));
  faulty.row(kNan).as<float>()[40] = std::numeric_limits<float>::quiet_NaN();
  faulty.row(kInf).as<float>()[0] = -std::numeric_limits<float>::infinity();
  for (const KernelRow<Args>& row : table.rows) {
    if (row.device != Device::Kind::cpu || row.name == "ref") continue;
    if (!row.supports(Exec{}, args)) continue;
    args.x = clean;
    const Tensor wanted = args.y = in.output(DType::f32, {kM, kN});
    run(row, args, 0, kM, 1);
    args.x = faulty;
    const Tensor got = args.y = in.output(DType::f32, {kM, kN});
    run(row, args, 0, kM, 1);
    for (int64_t m = 0; m < kM; ++m) {
      if (m != kNan && m != kInf) {
        EXPECT_TRUE(same_bits(wanted.row(m), got.row(m))) << row.name << ", token " << m;
        continue;
      }
      const float* y = got.row(m).as<float>();
      EXPECT_TRUE(std::none_of(y, y + kN, [](float v) { return std::isfinite(v); }))
          << row.name << ", token " << m;
    }
  }
}

template <class Args>
void expect_unhealthy_rows(const KernelTable<Args>& table, DType weight) {
  CaseInputs in(6);
  Args args;
  args.x = in.normal(DType::f32, {kM, kK});
  args.weight = testing::random_weight(in, weight, kN, kK);
  expect_unhealthy_rows(table, in, args);
}

constexpr int64_t kMany = 600, kShort = 256;

// More tokens than weights that are decoded at once meet; args: x [kMany, kShort], all but y.
template <class Args>
void expect_same_bits_of_many(const KernelTable<Args>& table, CaseInputs& in, Args args) {
  for (const KernelRow<Args>& row : table.rows) {
    if (row.device != Device::Kind::cpu || row.name == "ref") continue;
    if (!row.supports(Exec{}, args)) continue;
    const Tensor together = args.y = in.output(DType::f32, {kMany, kN});
    run(row, args, 0, kMany, 1);
    const Tensor parts = args.y = in.output(DType::f32, {kMany, kN});
    run(row, args, 0, 257, 3);
    run(row, args, 257, kMany - 257, 2);
    EXPECT_TRUE(same_bits(together, parts)) << row.name << ": parts change bits";
    for (const int64_t m : {0, 131, 255, 256, 512, 599}) {
      run(row, args, m, 1, 1);
      EXPECT_TRUE(same_bits(together.row(m), parts.row(m))) << row.name << ", token " << m;
    }
  }
}

template <class Args>
void expect_same_bits_of_many(const KernelTable<Args>& table, DType weight) {
  CaseInputs in(7);
  Args args;
  args.x = in.normal(DType::f32, {kMany, kShort});
  args.weight = testing::random_weight(in, weight, kN, kShort);
  expect_same_bits_of_many(table, in, args);
}

class GgufGemmBits : public ::testing::TestWithParam<DType> {};
TEST_P(GgufGemmBits, DependOnItsRowsAlone) {
  expect_same_bits(gguf_gemm_table(), GetParam());
}
TEST_P(GgufGemmBits, DependOnItsRowsAloneAmongMany) {
  expect_same_bits_of_many(gguf_gemm_table(), GetParam());
}
TEST_P(GgufGemmBits, AreNotFiniteWhereItsTokenIsNot) {
  expect_unhealthy_rows(gguf_gemm_table(), GetParam());
}
INSTANTIATE_TEST_SUITE_P(
    Types,
    GgufGemmBits,
    ::testing::Values(
        DType::q8_0x16,
        DType::q4_0x16,
        DType::q4_1x16,
        DType::q5_0x16,
        DType::q5_1x16,
        DType::q4_kx16,
        DType::q5_kx16,
        DType::q6_kx16
    ),
    [](const auto& type) { return std::string(name(type.param)); }
);

class Bf16GemmBits : public ::testing::TestWithParam<DType> {};
TEST_P(Bf16GemmBits, DependOnItsRowsAlone) {
  expect_same_bits(bf16_gemm_table(), GetParam());
}
TEST_P(Bf16GemmBits, DependOnItsRowsAloneAmongMany) {
  expect_same_bits_of_many(bf16_gemm_table(), GetParam());
}
TEST_P(Bf16GemmBits, AreNotFiniteWhereItsTokenIsNot) {
  expect_unhealthy_rows(bf16_gemm_table(), GetParam());
}
INSTANTIATE_TEST_SUITE_P(
    Types,
    Bf16GemmBits,
    ::testing::Values(DType::bf16x32, DType::f16x32, DType::f32x32),
    [](const auto& type) { return std::string(name(type.param)); }
);

W8a8Gemm w8a8_args(CaseInputs& in, DType weight, int64_t M = kM, int64_t K = kK) {
  W8a8Gemm args;
  args.x = in.normal(DType::f32, {M, K});
  args.w.data = testing::random_weight(in, weight, kN, K);
  args.w.scale = in.normal(DType::f32, {kN});
  args.bias = in.normal(DType::f32, {kN});
  return args;
}

class W8a8GemmBits : public ::testing::TestWithParam<DType> {};
TEST_P(W8a8GemmBits, DependOnItsRowsAlone) {
  CaseInputs in(4);
  expect_same_bits(w8a8_gemm_table(), in, w8a8_args(in, GetParam()), GetParam());
}
TEST_P(W8a8GemmBits, DependOnItsRowsAloneAmongMany) {
  CaseInputs in(9);
  expect_same_bits_of_many(w8a8_gemm_table(), in, w8a8_args(in, GetParam(), kMany, kShort));
}
TEST_P(W8a8GemmBits, AreNotFiniteWhereItsTokenIsNot) {
  CaseInputs in(8);
  expect_unhealthy_rows(w8a8_gemm_table(), in, w8a8_args(in, GetParam()));
}
INSTANTIATE_TEST_SUITE_P(
    Types,
    W8a8GemmBits,
    ::testing::Values(DType::i8x16, DType::f8e4m3x32),
    [](const auto& type) { return std::string(name(type.param)); }
);

// Tokens [from, from + n) alone; the scales of x stand in columns, a multiple of 4 of them.
void run_fp8(
    const KernelRow<Fp8BlockGemm>& row, Fp8BlockGemm args, int64_t from, int64_t n, int threads
) {
  MemoryLedger ledger;
  Result<Buffer> memory = Buffer::allocate(ledger, Device::cpu(), 1 << 24, Purpose::workspace);
  Workspace workspace(std::move(*memory));
  ThreadPool pool(threads);
  Exec exec{.workspace = &workspace, .pool = &pool};
  args.x = args.x.slice(0, from, n);
  args.x_scale = args.x_scale.slice(1, from, (n + 3) / 4 * 4);
  args.y = args.y.slice(0, from, n);
  row.run(exec, args);
}

TEST(Fp8BlockGemmBits, DependOnItsRowsAlone) {
  CaseInputs in(5);
  Fp8BlockGemm args;
  args.x = in.normal(DType::f8e4m3, {kM, kK}, 16.0f);
  args.x_scale = in.normal(DType::f32, {kK / 128, kM + 8});
  args.w.data = testing::random_weight(in, DType::f8e4m3x32, 200, kK);
  args.w.scale = in.normal(DType::f32, {2, kK / 128});
  Tensor wanted;
  for (const KernelRow<Fp8BlockGemm>& row : fp8_block_gemm_table().rows) {
    if (row.device != Device::Kind::cpu || row.name == "ref") continue;
    if (!row.supports(Exec{}, args)) continue;
    const auto fresh = [&] { return args.y = in.output(DType::f32, {kM, 200}); };
    const Tensor together = fresh();
    run_fp8(row, args, 0, kM, 1);
    const Tensor threaded = fresh();
    run_fp8(row, args, 0, kM, 3);
    EXPECT_TRUE(same_bits(together, threaded)) << row.name << ": threads change bits";
    const Tensor chunked = fresh();
    for (int64_t m = 0, n = 1; m < kM; m += n, n = std::min<int64_t>(n + 1, kM - m))
      run_fp8(row, args, m, n, 2);
    EXPECT_TRUE(same_bits(together, chunked)) << row.name << ": chunks change bits";
    if (!wanted.defined()) wanted = together;
    EXPECT_TRUE(same_bits(wanted, together)) << row.name << ": the instruction level changes bits";
  }
  EXPECT_TRUE(in.red_zones_intact());
}

}  // namespace
}  // namespace fathom::ops
