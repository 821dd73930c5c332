#include "fathom/ops/sample/sample.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::Sample;

struct Law {
  float temperature = 0.0f;
  int32_t top_k = 0;
  float top_p = 1.0f, min_p = 0.0f;
  bool penalised = false, biased = false;
  int64_t logprobs = -1;
  float drafts_threshold = 0.0f;  // 0: no drafts
};

Tensor filled(CaseInputs& in, int64_t n, float value) {
  Tensor t = in.storage(DType::f32, {n});
  for (int64_t i = 0; i < n; ++i) t.as<float>()[i] = value;
  return t;
}

void add_penalties(CaseInputs& in, Sample& args, int64_t B, int64_t V) {
  args.repetition = filled(in, B, 1.2f);
  args.presence = filled(in, B, 0.4f);
  args.frequency = filled(in, B, 0.3f);
  args.slot = in.storage(DType::i32, {B});
  for (int64_t b = 0; b < B; ++b) args.slot.as<int32_t>()[b] = static_cast<int32_t>(B - 1 - b);
  args.counts = in.integers(DType::i32, {B, V}, 0, 2);
  args.prompt_seen = in.integers(DType::u8, {B, V}, 0, 1);
}

void add_biases(CaseInputs& in, Sample& args, int64_t B, int64_t V) {
  args.bias_begin = in.storage(DType::i32, {B + 1});
  for (int64_t b = 0; b <= B; ++b) args.bias_begin.as<int32_t>()[b] = static_cast<int32_t>(2 * b);
  args.bias_token = in.integers(DType::i32, {2 * B}, 0, V - 1);
  args.bias_value = in.normal(DType::f32, {2 * B}, 5.0f);
}

// Four drafted tokens a row.
void add_drafts(CaseInputs& in, Sample& args, int64_t B, int64_t V, float threshold) {
  args.draft_begin = in.storage(DType::i32, {B + 1});
  for (int64_t b = 0; b <= B; ++b) args.draft_begin.as<int32_t>()[b] = static_cast<int32_t>(4 * b);
  args.draft_token = in.integers(DType::i32, {4 * B}, 0, V - 1);
  args.threshold_single = args.threshold_acc = threshold;
}

OpCase<Sample> sample_case(std::string name, int64_t B, int64_t V, Law law, bool bench = false) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            Sample args;
            args.logits = in.normal(DType::f32, {B, V}, 3.0f);
            args.temperature = filled(in, B, law.temperature);
            args.top_p = filled(in, B, law.top_p);
            args.min_p = filled(in, B, law.min_p);
            args.top_k = in.integers(DType::i32, {B}, law.top_k, law.top_k);
            args.seed = in.integers(DType::i64, {B}, 0, int64_t{1} << 60);
            args.position = in.integers(DType::i32, {B}, 0, 4000);
            if (law.penalised) add_penalties(in, args, B, V);
            if (law.biased) add_biases(in, args, B, V);
            if (law.drafts_threshold > 0) add_drafts(in, args, B, V, law.drafts_threshold);
            args.all_greedy = law.temperature == 0.0f && !law.penalised && !law.biased;
            args.token = in.output(DType::i32, {B});
            args.healthy = in.output(DType::u8, {B});
            if (law.logprobs >= 0) args.logprob = in.output(DType::f32, {B});
            if (law.logprobs > 0) {
              args.top_token = in.output(DType::i32, {B, law.logprobs});
              args.top_logprob = in.output(DType::f32, {B, law.logprobs});
            }
            return args;
          },
      // Logarithms of sums of V terms in float against double; tokens must be equal.
      .bound = {.absolute = 1e-4, .relative = 1e-5},
      .bench = bench,
      .large = B * V > 4'000'000,
  };
}

}  // namespace

OpSuite sample_suite() {
  return make_suite<Sample>(
      ops::sample_table(),
      {
          sample_case("b0", 0, 100, {}),
          sample_case("v1", 2, 1, {.temperature = 1.0f}),
          sample_case("greedy_smollm2", 1, 49152, {}, true),
          sample_case("greedy_deepseek_b4", 4, 129280, {}, true),
          sample_case("greedy_deepseek_b256", 256, 129280, {}, true),
          sample_case("greedy_logprobs", 3, 4096, {.logprobs = 5}),
          sample_case("temperature", 8, 4096, {.temperature = 0.7f}),
          sample_case("top_k", 8, 4096, {.temperature = 1.0f, .top_k = 40}),
          sample_case("top_p", 8, 4096, {.temperature = 1.0f, .top_p = 0.9f}),
          sample_case("min_p", 8, 4096, {.temperature = 1.3f, .min_p = 0.05f}),
          sample_case(
              "all_cuts",
              8,
              4096,
              {.temperature = 0.8f, .top_k = 50, .top_p = 0.95f, .min_p = 0.02f}
          ),
          sample_case("drafts", 8, 40, {.temperature = 1.0f, .drafts_threshold = 1.0f}),
          sample_case("drafts_eager", 8, 40, {.temperature = 1.0f, .drafts_threshold = 0.3f}),
          sample_case(
              "many_rows",
              70,
              9001,
              {.temperature = 0.8f, .top_k = 50, .top_p = 0.95f, .min_p = 0.02f}
          ),
          sample_case("many_rows_aligned", 65, 24576, {.temperature = 1.3f, .top_k = 300}),
          sample_case("many_rows_of_one", 65, 3, {.temperature = 1.0f, .top_k = 1}),
          sample_case("many_rows_top_p", 66, 4097, {.temperature = 1.0f, .top_p = 0.9f}),
          sample_case("many_rows_logprobs", 67, 5000, {.logprobs = 2}),
          sample_case("penalties", 4, 4096, {.temperature = 1.0f, .penalised = true}),
          sample_case(
              "everything",
              4,
              4096,
              {.temperature = 0.9f,
               .top_k = 100,
               .top_p = 0.9f,
               .penalised = true,
               .biased = true,
               .logprobs = 3}
          ),
          sample_case("greedy_deepseek_b1", 1, 129280, {}, true),
          sample_case(
              "top_p_of_top_k", 4, 50257, {.temperature = 1.2f, .top_k = 1000, .top_p = 0.5f}
          ),
          sample_case("greedy_penalties", 3, 2049, {.penalised = true, .biased = true}),
          sample_case(
              "full_law_deepseek",
              1,
              129280,
              {.temperature = 0.8f, .top_k = 50, .top_p = 0.95f},
              true
          ),
          sample_case(
              "full_law_deepseek_b256",
              256,
              129280,
              {.temperature = 0.8f, .top_k = 50, .top_p = 0.95f},
              true
          ),
          sample_case("logprobs_deepseek", 1, 129280, {.logprobs = 5}, true),
          sample_case(
              "penalties_deepseek",
              1,
              129280,
              {.temperature = 0.8f, .top_p = 0.95f, .penalised = true},
              true
          ),
      }
  );
}

}  // namespace fathom::testing
