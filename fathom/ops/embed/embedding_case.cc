#include "fathom/ops/embed/embedding.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::Embedding;

// A copy: other rows may differ by the one rounding to y's dtype at most.
constexpr Bound kCopy{.absolute = 0, .relative = 0x1p-8};

// Block types are filled with random bytes whose scales are finite halves.
Tensor random_matrix(CaseInputs& in, DType dtype, int64_t V, int64_t C) {
  if (info(dtype).block_elements == 1) return in.normal(dtype, {V, C});
  Tensor t = in.storage(dtype, {V, C});
  auto* bytes = static_cast<uint8_t*>(t.data);
  std::uniform_int_distribution<int> law(0, 59);  // 0x3b3b as f16 is 0.9
  for (int64_t i = 0; i < t.bytes(); ++i) bytes[i] = static_cast<uint8_t>(law(in.random()));
  return t;
}

OpCase<Embedding> embedding_case(
    std::string name, int64_t T, int64_t V, int64_t C, DType weight, DType y, bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            return Embedding{
                .tokens = in.integers(DType::i32, {T}, 0, V - 1),
                .weight = random_matrix(in, weight, V, C),
                .y = in.output(y, {T, C}),
            };
          },
      .bound = kCopy,
      .bench = bench,
      .large = T * C > 4'000'000,
  };
}

}  // namespace

OpSuite embedding_suite() {
  return make_suite<Embedding>(
      ops::embedding_table(),
      {
          embedding_case("t0", 0, 7, 64, DType::f32, DType::f32),
          embedding_case("one", 1, 1, 1, DType::f16, DType::f32),
          embedding_case("odd", 5, 33, 77, DType::bf16, DType::bf16),
          embedding_case("q4_k", 3, 9, 512, DType::q4_k, DType::f32),
          embedding_case("q6_k", 3, 9, 256, DType::q6_k, DType::bf16),
          embedding_case("smollm2_t1", 1, 49152, 576, DType::q8_0, DType::f32, true),
          embedding_case("smollm2_t512", 512, 49152, 576, DType::q8_0, DType::f32, true),
          embedding_case("qwen25_05b_t64", 64, 4096, 896, DType::bf16, DType::bf16, true),
          embedding_case("v3_t1", 1, 8192, 7168, DType::bf16, DType::bf16, true),
          embedding_case("v3_t4096", 4096, 8192, 7168, DType::bf16, DType::bf16, true),
      }
  );
}

}  // namespace fathom::testing
