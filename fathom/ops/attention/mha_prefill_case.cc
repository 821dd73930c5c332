#include "fathom/ops/attention/mha_prefill.h"

#include "fathom/ops/attention/attention_case.h"

namespace fathom::testing {

OpSuite mha_prefill_suite() {
  const AttentionShape smollm2{.H = 9, .Hkv = 3};
  const AttentionShape smollm2_bf16{.H = 9, .Hkv = 3, .kv_dtype = DType::bf16};
  const AttentionShape llama{
      .H = 32, .Hkv = 8, .D = 128, .dtype = DType::bf16, .kv_dtype = DType::bf16};
  AttentionShape window = smollm2;
  window.window = 16;
  window.sinks = true;
  const DType bf16 = DType::bf16;
  const AttentionShape group7{
      .H = 28, .Hkv = 4, .D = 128, .page_size = 64, .dtype = bf16, .kv_dtype = bf16};
  AttentionShape gpt_oss{.H = 64, .Hkv = 8, .dtype = bf16, .kv_dtype = bf16};
  const AttentionShape gpt_oss_full = gpt_oss;
  gpt_oss.window = 128;
  gpt_oss.sinks = true;
  const AttentionShape expanded{.H = 8, .Hkv = 8, .D = 192, .page_size = 1, .lse = true, .Dv = 128};
  AttentionShape prefix = expanded;
  prefix.causal = false;
  AttentionShape mla{
      .H = 16,
      .Hkv = 16,
      .D = 192,
      .page_size = 64,
      .dtype = bf16,
      .kv_dtype = bf16,
      .lse = true,
      .Dv = 128};
  AttentionShape mla_v3 = mla;
  mla_v3.H = mla_v3.Hkv = 128;
  AttentionShape mla_prefix = mla;
  mla_prefix.causal = false;
  AttentionShape odd{.H = 7, .Hkv = 1, .D = 6, .page_size = 1};
  return make_suite<ops::PagedAttention>(
      ops::mha_prefill_table(),
      {
          attention_case("one", {{1, 1}}, smollm2),
          attention_case("odd", {{3, 3}, {1, 9}, {5, 17}}, odd),
          attention_case(
              "chunks", {{16, 48}, {7, 7}, {33, 64}}, {.H = 4, .Hkv = 4, .page_size = 64}
          ),
          attention_case("f16_cache", {{20, 40}}, {.H = 6, .Hkv = 2, .kv_dtype = DType::f16}),
          attention_case("mla_expanded", {{20, 20}, {1, 1}, {70, 70}}, expanded),
          attention_case("mla_prefix", {{20, 33}, {3, 0}, {1, 5}, {7, 300}}, prefix),
          attention_case("window_sinks", {{40, 40}, {2, 100}}, window),
          attention_case("smollm2_t128", {{128, 128}}, smollm2, true),
          attention_case("smollm2_t512", {{512, 512}}, smollm2_bf16, true),
          attention_case("qwen25_05b_chunk", {{64, 256}}, {.H = 14, .Hkv = 2}, true),
          attention_case("llama_8b_t64", {{64, 64}}, llama, true),
          attention_case("bf16_mixed", {{1, 1}, {130, 200}, {3, 3}, {65, 300}}, llama),
          attention_case("bf16_group7", {{20, 20}, {100, 170}}, group7),
          attention_case("gpt_oss_window", {{150, 300}, {2, 129}}, gpt_oss),
          attention_case("mla_bf16", {{20, 20}, {1, 1}, {130, 200}, {3, 300}}, mla),
          attention_case("mla_bf16_prefix", {{20, 33}, {3, 0}, {1, 5}, {140, 300}}, mla_prefix),
          attention_case("mla_t1k", {{1024, 1024}}, mla_v3, true, true),
          attention_case("mla_t4k", {{4096, 4096}}, mla_v3, true, true),
          attention_case("llama_8b_t1k", {{1024, 1024}}, llama, true, true),
          attention_case("llama_8b_t4k", {{4096, 4096}}, llama, true, true),
          attention_case("gpt_oss_t4k", {{4096, 4096}}, gpt_oss_full, true, true),
      }
  );
}

}  // namespace fathom::testing
