#include "fathom/ops/attention/gqa_decode.h"

#include "fathom/ops/attention/attention_case.h"

namespace fathom::testing {

OpSuite gqa_decode_suite() {
  const AttentionShape smollm2{.H = 9, .Hkv = 3};
  const AttentionShape smollm2_bf16{.H = 9, .Hkv = 3, .kv_dtype = DType::bf16};
  const AttentionShape llama{
      .H = 32, .Hkv = 8, .D = 128, .dtype = DType::bf16, .kv_dtype = DType::bf16};
  AttentionShape window = smollm2;
  window.window = 128;
  window.sinks = true;
  const DType bf16 = DType::bf16;
  AttentionShape page1 = llama;
  page1.page_size = 1;
  const AttentionShape group7{
      .H = 28, .Hkv = 4, .D = 128, .page_size = 64, .dtype = bf16, .kv_dtype = bf16};
  const AttentionShape group16{.H = 16, .Hkv = 1, .dtype = bf16, .kv_dtype = bf16};
  AttentionShape gpt_oss{.H = 64, .Hkv = 8, .dtype = bf16, .kv_dtype = bf16, .sinks = true};
  const AttentionShape gpt_oss_full = gpt_oss;
  gpt_oss.window = 128;
  const std::vector<RowShape> thirty_two(32, {1, 4096});
  AttentionShape odd{.H = 7, .Hkv = 1, .D = 6, .page_size = 1};
  return make_suite<ops::PagedAttention>(
      ops::gqa_decode_table(),
      {
          attention_case("first_token", {{1, 1}}, smollm2),
          attention_case("odd", {{1, 3}, {1, 1}, {1, 17}}, odd),
          attention_case(
              "page64", {{1, 63}, {1, 64}, {1, 65}}, {.H = 4, .Hkv = 4, .page_size = 64}
          ),
          attention_case(
              "f16_cache", {{1, 40}, {1, 7}}, {.H = 6, .Hkv = 2, .kv_dtype = DType::f16}
          ),
          attention_case("window_sinks", {{1, 127}, {1, 128}, {1, 129}, {1, 300}}, window),
          attention_case("smollm2_b1_s512", {{1, 512}}, smollm2_bf16, true),
          attention_case("smollm2_b1_s2048", {{1, 2048}}, smollm2_bf16, true),
          attention_case("smollm2_b4", {{1, 100}, {1, 700}, {1, 31}, {1, 256}}, smollm2, true),
          attention_case("qwen25_05b_b2", {{1, 300}, {1, 5}}, {.H = 14, .Hkv = 2}, true),
          attention_case("llama_8b_b2_s512", {{1, 512}, {1, 480}}, llama, true),
          attention_case("bf16_first", {{1, 1}}, llama),
          attention_case("bf16_page1", {{1, 129}, {1, 64}, {1, 1}}, page1),
          attention_case("bf16_group7", {{1, 200}, {1, 31}}, group7),
          attention_case("bf16_group16", {{1, 1000}, {1, 65}, {1, 2}}, group16),
          attention_case("gpt_oss_window", {{1, 127}, {1, 130}, {1, 700}}, gpt_oss),
          attention_case("llama_8b_b1_s1k", {{1, 1024}}, llama, true),
          attention_case("llama_8b_b1_s8k", {{1, 8192}}, llama, true, true),
          attention_case("llama_8b_b32_s4k", thirty_two, llama, true, true),
          attention_case("gpt_oss_b32_s4k", thirty_two, gpt_oss_full, true, true),
      }
  );
}

}  // namespace fathom::testing
