#include "fathom/ops/attention/mla_decode.h"
#include "fathom/ops/attention/mla_kv_append.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::MlaKvAppend;

// One rounding of the value itself.
constexpr Bound kExact{};

struct Shape {
  std::vector<int32_t> counts;   // of tokens
  std::vector<int32_t> lengths;  // positions before them
  int64_t page;
  DType dtype, cache;
  int64_t L = 512, R = 64;
};

OpCase<MlaKvAppend> append_case(std::string name, Shape s, bool bench = false) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            std::vector<int32_t> row_begin{0}, page_begin{0}, kv_len, pages;
            for (size_t b = 0; b < s.counts.size(); ++b) {
              kv_len.push_back(s.lengths[b] + s.counts[b]);
              row_begin.push_back(row_begin.back() + s.counts[b]);
              const auto page = static_cast<int32_t>(s.page);
              page_begin.push_back(page_begin.back() + (kv_len.back() + page - 1) / page);
            }
            for (int32_t i = 0; i < page_begin.back(); ++i) pages.push_back(page_begin.back() - i);
            const auto B = static_cast<int64_t>(s.counts.size());
            const int64_t T = row_begin.back(), P = page_begin.back() + 1;
            MlaKvAppend args;
            args.rows.row_begin = in.values({B + 1}, row_begin);
            args.rows.kv_len = in.values({B}, kv_len);
            args.rows.page_begin = in.values({B + 1}, page_begin);
            args.rows.pages = in.values({P - 1}, pages);
            // As the layer has them: the latent normed apart, the rope key inside kv_a's output.
            args.latent = in.normal(s.dtype, {T, s.L});
            args.k_rope = in.normal(s.dtype, {T, s.L + s.R}).slice(1, s.L, s.R);
            const int64_t row = s.cache == DType::u8 ? ops::mla_row_bytes(s.L, s.R) : s.L + s.R;
            args.kv = in.output(s.cache, {P, s.page, row});
            return args;
          },
      .bound = kExact,
      .bench = bench,
  };
}

}  // namespace

OpSuite mla_kv_append_suite() {
  const DType f32 = DType::f32, bf16 = DType::bf16, u8 = DType::u8;
  return make_suite<MlaKvAppend>(
      ops::mla_kv_append_table(),
      {
          append_case("t0", {{0}, {5}, 4, f32, f32}),
          append_case("page1", {{1, 3, 2}, {0, 7, 2}, 1, f32, f32}),
          append_case("page5_bf16_rows", {{1, 3, 9}, {0, 7, 4}, 5, f32, bf16}),
          append_case("page64", {{1, 70, 1}, {63, 3, 64}, 64, bf16, bf16}, true),
          append_case("fp8_rows", {{1, 20, 1}, {63, 3, 64}, 64, bf16, u8}, true),
          append_case("fp8_rows_f32", {{2, 3}, {0, 15}, 16, f32, u8}),
          append_case(
              "v3_t32",
              {std::vector<int32_t>(32, 1), std::vector<int32_t>(32, 100), 64, bf16, bf16},
              true
          ),
          append_case("v3_t512", {{512}, {0}, 64, bf16, bf16}, true),
      }
  );
}

}  // namespace fathom::testing
