#include "fathom/ops/attention/rope_append.h"

#include <cmath>

#include "fathom/ops/attention/paged_case.h"

namespace fathom::testing {
namespace {

using ops::RopeAppend;
using ops::RopePairs;

struct Shape {
  int64_t H = 1, Hkv = 1, D = 64;
  int32_t page_size = 16;
  RopePairs pairs = RopePairs::halves;
  DType dtype = DType::bf16;
};

// Two products and one sum of values about 1, rounded once.
constexpr Bound kF32{.absolute = 1e-6, .relative = 1e-6};
constexpr Bound kBf16{.absolute = 0x1p-8, .relative = 0x1p-7, .cosine = 1e-4};

Tensor angles(CaseInputs& in, int64_t positions, int64_t D) {
  Tensor t = in.storage(DType::f32, {positions, D});
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < D / 2; ++i) {
      const double rate = std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(D));
      const double angle = static_cast<double>(p) * rate;
      t.as<float>()[p * D + i] = static_cast<float>(std::cos(angle));
      t.as<float>()[p * D + D / 2 + i] = static_cast<float>(std::sin(angle));
    }
  }
  return t;
}

Tensor positions_of(CaseInputs& in, const std::vector<RowShape>& rows) {
  std::vector<int32_t> positions;
  for (const RowShape& row : rows) {
    for (int32_t i = 0; i < row.count; ++i) positions.push_back(row.kv_len - row.count + i);
  }
  return in.values({static_cast<int64_t>(positions.size())}, positions);
}

OpCase<RopeAppend> rope_append_case(
    std::string name, std::vector<RowShape> rows, Shape s, bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            const PagedInputs paged = make_rows(in, rows, s.page_size);
            RopeAppend args;
            args.rows = paged.rows;
            args.positions = positions_of(in, rows);
            args.table = angles(in, paged.max_kv_len, s.D);
            args.pairs = s.pairs;
            const Tensor qkv = in.normal(s.dtype, {paged.tokens, s.H + 2 * s.Hkv, s.D});
            args.q = qkv.slice(1, 0, s.H);
            args.k = qkv.slice(1, s.H, s.Hkv);
            args.v = qkv.slice(1, s.H + s.Hkv, s.Hkv);
            const std::initializer_list<int64_t> cache = {paged.pages, s.Hkv, s.page_size, s.D};
            args.keys = in.normal(s.dtype, cache);
            args.values = in.normal(s.dtype, cache);
            return args;
          },
      .bound = s.dtype == DType::f32 ? kF32 : kBf16,
      .bench = bench,
      .large = rows.front().count > 1024,
  };
}

}  // namespace

OpSuite rope_append_suite() {
  const Shape llama{.H = 32, .Hkv = 8, .D = 128};
  const Shape adjacent{.H = 9, .Hkv = 3, .pairs = RopePairs::adjacent};
  return make_suite<RopeAppend>(
      ops::rope_append_table(),
      {
          rope_append_case("first_token", {{1, 1}}, llama),
          rope_append_case(
              "odd_f32", {{3, 5}, {1, 1}}, {.H = 3, .D = 6, .page_size = 1, .dtype = DType::f32}
          ),
          rope_append_case("adjacent", {{5, 70}, {1, 1}, {2, 2}}, adjacent),
          rope_append_case(
              "page64_border", {{2, 65}, {64, 128}}, {.H = 4, .Hkv = 2, .page_size = 64}
          ),
          rope_append_case(
              "smollm2_f32_t64", {{64, 64}}, {.H = 9, .Hkv = 3, .dtype = DType::f32}, true
          ),
          rope_append_case("llama_8b_b1", {{1, 1024}}, llama, true),
          rope_append_case("llama_8b_t512", {{512, 512}}, llama, true),
          rope_append_case("llama_8b_t4096", {{4096, 4096}}, llama, true),
      }
  );
}

}  // namespace fathom::testing
