#include "fathom/ops/attention/mla_store.h"

#include <cmath>

#include "fathom/ops/attention/paged_case.h"

namespace fathom::testing {
namespace {

using ops::MlaStore;

struct Shape {
  int64_t H, L, R;
  int32_t page;
  DType dtype, cache;
};

Tensor rope_table(CaseInputs& in, int64_t S, int64_t R) {
  Tensor t = in.storage(DType::f32, {S, R});
  for (int64_t s = 0; s < S; ++s) {
    for (int64_t i = 0; i < R / 2; ++i) {
      const double angle = static_cast<double>(s) *
                           std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(R));
      t.row(s).as<float>()[i] = static_cast<float>(std::cos(angle));
      t.row(s).as<float>()[R / 2 + i] = static_cast<float>(std::sin(angle));
    }
  }
  return t;
}

OpCase<MlaStore> store_case(
    std::string name, std::vector<RowShape> rows, Shape s, bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            const PagedInputs paged = make_rows(in, rows, s.page);
            const int64_t T = paged.tokens, row = s.L + s.R;
            std::vector<int32_t> positions;
            for (const RowShape& r : rows) {
              for (int32_t i = r.kv_len - r.count; i < r.kv_len; ++i) positions.push_back(i);
            }
            MlaStore args;
            args.rows = paged.rows;
            args.positions = in.values({T}, positions);
            args.table = rope_table(in, paged.max_kv_len + 1, s.R);
            // As the layer has them: latent and key side by side, behind the queries' low rank.
            const Tensor down = in.normal(s.dtype, {T, 64 + row});
            args.c = down.slice(1, 64, s.L);
            args.weight = in.normal(DType::f32, {s.L});
            args.latent = in.output(s.dtype, {T, s.L});
            args.k_rope = in.normal(s.dtype, {T, s.R});
            args.q_rope = in.normal(s.dtype, {T, s.H, 32 + s.R}).slice(2, 32, s.R);
            args.kv = in.output(s.cache, {paged.pages, s.page, row});
            return args;
          },
      // A sum of L squares in float, and a few operations on values below 8; bf16: a rounding that
      // may fall to the other side.
      .bound = s.cache == DType::f32 ? Bound{.absolute = 4e-6, .relative = 1e-5}
                                     : Bound{.absolute = 1e-3, .relative = 0x1p-7, .cosine = 1e-5},
      .bench = bench,
  };
}

}  // namespace

OpSuite mla_store_suite() {
  const DType f32 = DType::f32, bf16 = DType::bf16;
  const Shape v3{128, 512, 64, 64, bf16, bf16}, nano{8, 512, 64, 1, bf16, bf16};
  return make_suite<MlaStore>(
      ops::mla_store_table(),
      {
          store_case("odd_f32", {{3, 3}, {1, 9}, {5, 17}}, {3, 48, 10, 5, f32, f32}),
          store_case("f32_to_bf16", {{3, 20}}, {3, 128, 64, 16, f32, bf16}),
          store_case("nano", {{1, 1}, {7, 30}, {1, 64}}, nano),
          store_case("bf16_rows", {{1, 65}, {20, 20}, {1, 300}}, {16, 512, 64, 64, bf16, bf16}),
          store_case("v3_t1", {{1, 1000}}, v3, true),
          store_case("v3_t32", std::vector<RowShape>(32, {1, 100}), v3, true),
          store_case("v3_t512", {{512, 512}}, v3, true),
          store_case("v3_t4096", {{4096, 4096}}, v3, true),
      }
  );
}

}  // namespace fathom::testing
