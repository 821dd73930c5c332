#include "fathom/ops/moe/moe_gate.h"

#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::MoeGate;

// Ids are compared exactly. Weights: a float exponential, a sum of k terms and a division.
constexpr Bound kWeights{.absolute = 1e-7, .relative = 1e-5};

struct Family {
  int64_t E;
  int k;
  MoeGate::Scoring scoring;
  int groups = 1, kept = 1;
  MoeGate::GroupScore group_score = MoeGate::GroupScore::max;
  bool renormalise = false;
  float scale = 1.0f;
  bool bias = false;
};

constexpr Family kV3{
    256, 8, MoeGate::Scoring::sigmoid, 8, 4, MoeGate::GroupScore::top2_sum, true, 2.5f, true};
constexpr Family kV2{
    160, 6, MoeGate::Scoring::softmax, 8, 3, MoeGate::GroupScore::max, false, 16.0f, false};
constexpr Family kV2Lite{64, 6, MoeGate::Scoring::softmax};
constexpr Family kNano{
    16, 4, MoeGate::Scoring::sigmoid, 4, 2, MoeGate::GroupScore::top2_sum, true, 2.5f, true};
constexpr Family kQwen3{
    128, 8, MoeGate::Scoring::softmax, 1, 1, MoeGate::GroupScore::max, true, 1.0f, false};
constexpr Family kGptOss{
    32, 4, MoeGate::Scoring::softmax, 1, 1, MoeGate::GroupScore::max, true, 1.0f, false};
constexpr Family kKimi{
    384, 8, MoeGate::Scoring::sigmoid, 1, 1, MoeGate::GroupScore::max, true, 2.827f, true};

enum class Data { normal, ties, negative_bias };

struct Options {
  Data data = Data::normal;
  int shared = 0;
  int64_t live = -1;
  bool bench = false;
};

// Distinct scores: two that differ in their last bit could be ranked either way by another
// exponential. Multiples of 1/64, shuffled, stay apart after sigmoid and softmax.
void spread(CaseInputs& in, Tensor& logits, Data data) {
  const int64_t E = logits.dim(1);
  std::vector<float> row(static_cast<size_t>(E));
  for (int64_t t = 0; t < logits.dim(0); ++t) {
    for (int64_t e = 0; e < E; ++e) {
      const int64_t step = data == Data::ties ? e % 3 : e;
      row[static_cast<size_t>(e)] = (static_cast<float>(step) - static_cast<float>(E) / 2) / 64.0f;
    }
    std::shuffle(row.begin(), row.end(), in.random());
    std::copy(row.begin(), row.end(), logits.as<float>() + t * E);
  }
}

OpCase<MoeGate> gate_case(std::string name, Family f, int64_t T, Options o = {}) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            MoeGate args;
            args.logits = in.storage(DType::f32, {T, f.E});
            spread(in, args.logits, o.data);
            if (f.bias) {
              args.bias = in.storage(DType::f32, {f.E});
              // Whole steps keep biased scores apart from each other too.
              std::uniform_int_distribution<int> steps(0, o.data == Data::ties ? 0 : 1);
              for (int64_t e = 0; e < f.E; ++e)
                args.bias.as<float>()[e] = 0.0625f * static_cast<float>(steps(in.random())) -
                                           (o.data == Data::negative_bias ? 1.5f : 0.0f);
            }
            if (o.live >= 0) args.live_tokens = in.values({1}, {static_cast<int32_t>(o.live)});
            args.scoring = f.scoring;
            args.experts_per_token = f.k;
            args.groups = f.groups;
            args.kept_groups = f.kept;
            args.group_score = f.group_score;
            args.renormalise = f.renormalise;
            args.scale = f.scale;
            args.shared_slots = o.shared;
            args.ids = in.output(DType::i32, {T, f.k + o.shared});
            args.weights = in.output(DType::f32, {T, f.k + o.shared});
            return args;
          },
      .bound = kWeights,
      .bench = o.bench,
      .large = T * f.E > 400'000,
  };
}

}  // namespace

OpSuite moe_gate_suite() {
  const Family one{1, 1, MoeGate::Scoring::softmax};
  const Family odd{63, 5, MoeGate::Scoring::softmax, 7, 3};
  return make_suite<MoeGate>(
      ops::moe_gate_table(),
      {
          gate_case("t0", kV3, 0),
          gate_case("one_expert", one, 3),
          gate_case("odd", odd, 5),
          gate_case("nano", kNano, 65),
          gate_case("nano_negative_bias", kNano, 65, {.data = Data::negative_bias}),
          gate_case("v3_ties", kV3, 33, {.data = Data::ties}),
          gate_case("v2_ties", kV2, 33, {.data = Data::ties}),
          gate_case("v3_negative_bias", kV3, 33, {.data = Data::negative_bias}),
          gate_case("v3_shared_slot", kV3, 17, {.shared = 1}),
          gate_case("v3_padded", kV3, 16, {.shared = 1, .live = 11}),
          gate_case("v2_lite_t1", kV2Lite, 1, {.bench = true}),
          gate_case("gpt_oss_t32", kGptOss, 32, {.bench = true}),
          gate_case("v2_t32", kV2, 32, {.bench = true}),
          gate_case("qwen3_t32", kQwen3, 32, {.bench = true}),
          gate_case("kimi_t32", kKimi, 32, {.bench = true}),
          gate_case("v3_t1", kV3, 1, {.bench = true}),
          gate_case("v3_t32", kV3, 32, {.bench = true}),
          gate_case("v3_t128", kV3, 128, {.bench = true}),
          gate_case("v3_t512", kV3, 512, {.bench = true}),
          gate_case("v3_t4096", kV3, 4096, {.bench = true}),
      }
  );
}

}  // namespace fathom::testing
