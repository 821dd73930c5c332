#include <cmath>

#include "fathom/ops/rope/rope.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::Rope;
using ops::RopePairs;

// Two products and one sum of values about 1, rounded once to the output's dtype.
constexpr Bound kF32{.absolute = 1e-6, .relative = 1e-6};
constexpr Bound kBf16{.absolute = 0x1p-8, .relative = 0x1p-7, .cosine = 1e-4};

OpCase<Rope> rope_case(
    std::string name,
    int64_t T,
    int64_t H,
    int64_t Hkv,
    int64_t D,
    RopePairs pairs,
    DType dtype,
    bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            constexpr int64_t kPositions = 600;
            Rope args;
            args.positions = in.integers(DType::i32, {T}, 0, kPositions - 1);
            args.table = in.storage(DType::f32, {kPositions, D});
            for (int64_t p = 0; p < kPositions; ++p) {
              for (int64_t i = 0; i < D / 2; ++i) {
                const double angle =
                    static_cast<double>(p) *
                    std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(D));
                args.table.as<float>()[p * D + i] = static_cast<float>(std::cos(angle));
                args.table.as<float>()[p * D + D / 2 + i] = static_cast<float>(std::sin(angle));
              }
            }
            args.pairs = pairs;
            // Queries and keys as the attention layer has them: slices of one buffer.
            const Tensor qkv = in.normal(dtype, {T, H + 2 * Hkv, D});
            args.q = qkv.slice(1, 0, H);
            args.k = qkv.slice(1, H, Hkv);
            return args;
          },
      .bound = dtype == DType::f32 ? kF32 : kBf16,
      .bench = bench,
  };
}

}  // namespace

OpSuite rope_suite() {
  const RopePairs halves = RopePairs::halves, adjacent = RopePairs::adjacent;
  return make_suite<Rope>(
      ops::rope_table(),
      {
          rope_case("t0", 0, 3, 1, 64, halves, DType::f32),
          rope_case("d2", 3, 1, 1, 2, halves, DType::f32),
          rope_case("odd_heads", 5, 9, 3, 6, adjacent, DType::f32),
          rope_case("smollm2_t1", 1, 9, 3, 64, halves, DType::f32, true),
          rope_case("smollm2_gguf_t512", 512, 9, 3, 64, adjacent, DType::f32, true),
          rope_case("llama_8b_t1", 1, 32, 8, 128, halves, DType::bf16, true),
          rope_case("qwen25_7b_t64", 64, 28, 4, 128, halves, DType::bf16, true),
      }
  );
}

}  // namespace fathom::testing
