// grouped_moe on packed FP8 weights, as a CPU's loader leaves them, against the reference on plain
// ones; and a token's bits alone and among others.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "fathom/core/memory_ledger.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/moe/grouped_moe.h"
#include "fathom/ops/quant/fp8_blocks.h"

namespace fathom::ops {
namespace {

constexpr int64_t kExperts = 6, kSlots = 3, kWidth = 256, kInner = 128, kTokens = 9;

class PackedMoeTest : public ::testing::Test {
 protected:
  PackedMoeTest() : pool_(2) {
    Result<Buffer> scratch =
        Buffer::allocate(ledger_, Device::cpu(), int64_t{64} << 20, Purpose::workspace);
    CHECK(scratch.ok(), "{}", scratch.error().message);
    workspace_ = Workspace(std::move(*scratch));
    exec_ = Exec{.workspace = &workspace_, .pool = &pool_};
    fill(make(DType::f32, {kTokens, kWidth}, x_), 1.0f);
    args_.ids = make(DType::i32, {kTokens, kSlots}, ids_);
    args_.weights = make(DType::f32, {kTokens, kSlots}, weights_);
    for (int64_t i = 0; i < kTokens * kSlots; ++i) {
      args_.ids.as<int32_t>()[i] = static_cast<int32_t>((i * 5 + i / 4) % kExperts);
      args_.weights.as<float>()[i] = 0.2f + 0.05f * static_cast<float>(i % 7);
    }
    args_.x = Tensor::of(x_.data(), DType::f32, Device::cpu(), {kTokens, kWidth});
    args_.gate_up = weight(2 * kInner, kWidth, gate_up_, gate_up_scale_);
    args_.down = weight(kWidth, kInner, down_, down_scale_);
    args_.quantise_activations = true;
  }

  static Tensor make(
      DType dtype, std::initializer_list<int64_t> dims, std::vector<uint8_t>& memory
  ) {
    Tensor t = Tensor::of(nullptr, dtype, Device::cpu(), dims);
    memory.resize(static_cast<size_t>(t.bytes()));
    t.data = memory.data();
    return t;
  }
  void fill(const Tensor& t, float deviation) {
    std::normal_distribution<float> law(0.0f, deviation);
    for (int64_t i = 0; i < t.elements(); ++i) {
      const float v = law(random_);
      if (t.dtype == DType::f32) {
        t.as<float>()[i] = v;
      } else {
        t.as<uint8_t>()[i] = float_to_f8e4m3(v);
      }
    }
  }
  QTensor weight(int64_t N, int64_t K, std::vector<uint8_t>& codes, std::vector<uint8_t>& scales) {
    QTensor w{
        .data = make(DType::f8e4m3, {kExperts, N, K}, codes),
        .scale = make(DType::f32, {kExperts, fp8_blocks(N), fp8_blocks(K)}, scales)};
    fill(w.data, 60.0f);
    for (int64_t i = 0; i < w.scale.elements(); ++i)
      w.scale.as<float>()[i] = 0.001f * (1.0f + 0.1f * static_cast<float>(i % 5));
    return w;
  }
  QTensor packed(const QTensor& w) {
    packs_.emplace_back();
    Result<Buffer> memory =
        Buffer::allocate(ledger_, Device::cpu(), w.data.bytes(), Purpose::weights);
    CHECK(memory.ok(), "{}", memory.error().message);
    packs_.back() = std::move(*memory);
    QTensor p = w;
    p.data = Tensor::of(
        packs_.back().data(),
        DType::f8e4m3x32,
        Device::cpu(),
        {kExperts, w.data.dim(1), w.data.dim(2)}
    );
    for (int64_t e = 0; e < kExperts; ++e)
      pack_weight(exec_, {.source = w.data.row(e), .packed = p.data.row(e)});
    return p;
  }
  std::vector<float> run(const GroupedMoe& args) {
    std::vector<float> y(static_cast<size_t>(args.x.elements()));
    GroupedMoe call = args;
    call.y = Tensor::of(y.data(), DType::f32, Device::cpu(), {args.x.dim(0), kWidth});
    grouped_moe(exec_, call);
    return y;
  }
  GroupedMoe packed_args() {
    GroupedMoe args = args_;
    args.gate_up = packed(args_.gate_up);
    args.down = packed(args_.down);
    return args;
  }

  std::mt19937 random_{3};
  MemoryLedger ledger_;
  ThreadPool pool_;
  Workspace workspace_;
  Exec exec_;
  std::vector<uint8_t> x_, ids_, weights_, gate_up_, gate_up_scale_, down_, down_scale_;
  std::vector<Buffer> packs_;
  GroupedMoe args_;
};

TEST_F(PackedMoeTest, LikeTheReferenceOnPlainWeights) {
  const std::vector<float> wanted = run(args_), got = run(packed_args());
  double dot = 0, a = 0, b = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i], wanted[i], 2e-2f * std::max(1.0f, std::fabs(wanted[i]))) << i;
    dot += static_cast<double>(got[i]) * wanted[i];
    a += static_cast<double>(got[i]) * got[i];
    b += static_cast<double>(wanted[i]) * wanted[i];
  }
  EXPECT_LT(1 - dot / std::sqrt(a * b), 1e-4);
}

TEST_F(PackedMoeTest, PowerOfTwoScalesAreOtherScales) {
  GroupedMoe args = packed_args();
  const std::vector<float> plain = run(args);
  args.ue8m0 = true;
  EXPECT_NE(run(args), plain);
}

TEST_F(PackedMoeTest, ATokensBitsAreItsOwn) {
  const GroupedMoe args = packed_args();
  const std::vector<float> all = run(args);
  for (int64_t t = 0; t < kTokens; ++t) {
    GroupedMoe one = args;
    one.x = args.x.slice(0, t, 1);
    one.ids = args.ids.slice(0, t, 1);
    one.weights = args.weights.slice(0, t, 1);
    EXPECT_EQ(
        run(one), std::vector<float>(all.begin() + t * kWidth, all.begin() + (t + 1) * kWidth)
    );
  }
}

}  // namespace
}  // namespace fathom::ops
