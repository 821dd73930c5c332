#include "fathom/ops/norm/rms_norm_quant.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::RmsNormQuant;

// The reference sums in double. A norm on a rounding border of x's dtype takes the neighbour, and
// then its group's scale moves by that, and a code on a border of e4m3's by 2^-3.
constexpr Bound kBound{.absolute = 0x1p-9, .relative = 0x1p-3, .cosine = 1e-5};

struct Shape {
  int64_t T, C;
  DType dtype = DType::bf16;
  bool residual = true;
  bool ue8m0 = false;
  int64_t padding = 0;  // columns between rows
  DType weight = DType::f32;
};

OpCase<RmsNormQuant> norm_case(std::string name, Shape s, bool bench = false) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            const auto rows = [&] {
              return in.normal(s.dtype, {s.T, s.C + s.padding}).slice(1, 0, s.C);
            };
            RmsNormQuant args;
            args.x = rows();
            args.weight = in.normal(s.weight, {s.C}, 0.2f);
            if (s.residual) args.residual = rows();
            args.ue8m0 = s.ue8m0;
            args.y = in.output(DType::f8e4m3, {s.T, s.C});
            const int64_t stride = (s.T + 3) / 4 * 4;
            args.scale = in.output(DType::f32, {ops::fp8_blocks(s.C), stride}).slice(1, 0, s.T);
            return args;
          },
      .bound = kBound,
      .bench = bench,
      .large = s.T * s.C > 4'000'000,
  };
}

}  // namespace

OpSuite rms_norm_quant_suite() {
  return make_suite<RmsNormQuant>(
      ops::rms_norm_quant_table(),
      {
          norm_case("t0", {0, 128}),
          norm_case("one_group", {3, 128}),
          norm_case("odd_groups_f32", {5, 384, DType::f32}),
          norm_case("no_residual", {7, 640, DType::bf16, false}),
          norm_case("ue8m0", {9, 512, DType::bf16, true, true}),
          norm_case("strided", {5, 512, DType::bf16, true, false, 64}),
          norm_case("unaligned", {5, 512, DType::bf16, true, false, 3}),
          norm_case("weight_bf16", {5, 512, DType::f32, false, true, 0, DType::bf16}),
          norm_case("two_vectors", {600, 1152}),
          norm_case("four_vectors", {2, 18432}),
          norm_case("v3_t1", {1, 7168}, true),
          norm_case("v3_t32", {32, 7168}, true),
          norm_case("v3_t128", {128, 7168}, true),
          norm_case("v3_t1024", {1024, 7168}, true),
          norm_case("v3_t4096", {4096, 7168}, true),
          norm_case("v3_q_a_t1", {1, 1536, DType::bf16, false}, true),
          norm_case("v3_q_a_t4096", {4096, 1536, DType::bf16, false}, true),
      }
  );
}

}  // namespace fathom::testing
