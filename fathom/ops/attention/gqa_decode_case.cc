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
      }
  );
}

}  // namespace fathom::testing
