// Sums of FP8 products are promoted to f32 each 128 values (DeepSeek-V3, section 3.3.2): on
// positive inputs, whose sum grows all along K, an accumulator of the 14 bits that tensor cores
// keep is an order of magnitude outside the bound that every row stays within.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "fathom/core/dtype.h"
#include "fathom/ops/gemm/fp8_block_gemm.h"
#include "fathom/ops/gemm/pack_weight.h"

namespace fathom::ops {
namespace {

constexpr int64_t kRows = 32, kColumns = 7168, kBlocks = kColumns / 128, kTokens = 4;
constexpr double kBound = 1e-4;  // relative

float truncated(float x) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0xfffffc00u);
}

struct Inputs {
  std::vector<uint8_t> x, w;
  std::vector<float> x_scale, w_scale;
};

Inputs make_inputs() {
  Inputs in;
  for (size_t i = 0; i < kTokens * kColumns; ++i)
    in.x.push_back(static_cast<uint8_t>(0x30 + i * 7 % 16));
  for (size_t i = 0; i < kRows * kColumns; ++i)
    in.w.push_back(static_cast<uint8_t>(0x30 + i * 5 % 13));
  for (size_t i = 0; i < kBlocks * kTokens; ++i)
    in.x_scale.push_back(1.0f + 0.25f * static_cast<float>(i % 3));
  for (size_t i = 0; i < kBlocks; ++i)
    in.w_scale.push_back(0.5f + 0.5f * static_cast<float>(i % 4));
  return in;
}

// The product of the first row that runs here, on packed weights.
std::vector<float> product(Inputs& in) {
  MemoryLedger ledger;
  Result<Buffer> memory = Buffer::allocate(ledger, Device::cpu(), 1 << 22, Purpose::workspace);
  Workspace workspace(std::move(*memory));
  ThreadPool pool(1);
  Exec exec{.workspace = &workspace, .pool = &pool};
  const Device cpu = Device::cpu();
  const DType layout = packed_dtype(DType::f8e4m3, kColumns);
  const Tensor packed = workspace.alloc(layout, {packed_rows(layout, kRows), kColumns});
  const Tensor plain = Tensor::of(in.w.data(), DType::f8e4m3, cpu, {kRows, kColumns});
  pack_weight(exec, {.source = plain, .packed = packed});
  std::vector<float> y(kTokens * kRows);
  Fp8BlockGemm args;
  args.x = Tensor::of(in.x.data(), DType::f8e4m3, cpu, {kTokens, kColumns});
  args.x_scale = Tensor::of(in.x_scale.data(), DType::f32, cpu, {kBlocks, kTokens});
  args.w.data = packed;
  args.w.scale = Tensor::of(in.w_scale.data(), DType::f32, cpu, {1, kBlocks});
  args.y = Tensor::of(y.data(), DType::f32, cpu, {kTokens, kRows});
  fp8_block_gemm(exec, args);
  return y;
}

// One output exactly, and with a sum that keeps 14 bits from block to block.
struct Sums {
  double exact = 0;
  float unpromoted = 0;
};
Sums sums_of(const Inputs& in, size_t m, size_t n) {
  Sums sums;
  for (size_t b = 0; b < kBlocks; ++b) {
    double dot = 0;
    for (size_t k = b * 128; k < (b + 1) * 128; ++k)
      dot += static_cast<double>(f8e4m3_to_float(in.x[m * kColumns + k])) *
             static_cast<double>(f8e4m3_to_float(in.w[n * kColumns + k]));
    dot *= static_cast<double>(in.x_scale[b * kTokens + m] * in.w_scale[b]);
    sums.exact += dot;
    sums.unpromoted = truncated(sums.unpromoted + static_cast<float>(dot));
  }
  return sums;
}

TEST(Fp8PromotionTest, SumsStayWithinABoundThatFourteenBitsBreak) {
  Inputs in = make_inputs();
  const std::vector<float> y = product(in);
  double worst = 0, unpromoted = 0;
  for (size_t m = 0; m < kTokens; ++m) {
    for (size_t n = 0; n < kRows; ++n) {
      const Sums sums = sums_of(in, m, n);
      const auto error = [&](float v) {
        return std::fabs(static_cast<double>(v) / sums.exact - 1);
      };
      worst = std::max(worst, error(y[m * kRows + n]));
      unpromoted = std::max(unpromoted, error(sums.unpromoted));
    }
  }
  EXPECT_LT(worst, kBound);
  EXPECT_GT(unpromoted, 10 * kBound);
}

}  // namespace
}  // namespace fathom::ops
