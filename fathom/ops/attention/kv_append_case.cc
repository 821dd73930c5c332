#include "fathom/ops/attention/kv_append.h"

#include "fathom/ops/attention/paged_case.h"

namespace fathom::testing {
namespace {

using ops::KvAppend;

struct AppendShape {
  int64_t Hkv = 1, D = 64;
  int32_t page_size = 16;
  DType dtype = DType::f32;
  DType kv_dtype = DType::f32;
};

OpCase<KvAppend> append_case(
    std::string name, std::vector<RowShape> rows, AppendShape shape, bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            const PagedInputs paged = make_rows(in, rows, shape.page_size);
            const std::initializer_list<int64_t> cache = {
                paged.pages, shape.Hkv, shape.page_size, shape.D};
            KvAppend args;
            args.rows = paged.rows;
            const Tensor both = in.normal(shape.dtype, {paged.tokens, 2 * shape.Hkv, shape.D});
            args.k = both.slice(1, 0, shape.Hkv);
            args.v = both.slice(1, shape.Hkv, shape.Hkv);
            args.keys = in.normal(shape.kv_dtype, cache);
            args.values = in.normal(shape.kv_dtype, cache);
            return args;
          },
      .bound = {},  // one rounding to nearest even: every row gives the same bits
      .bench = bench,
      .large = rows.front().count > 1024,
  };
}

}  // namespace

OpSuite kv_append_suite() {
  const AppendShape smollm2{.Hkv = 3};
  const AppendShape bf16{.Hkv = 8, .D = 128, .dtype = DType::bf16, .kv_dtype = DType::bf16};
  return make_suite<KvAppend>(
      ops::kv_append_table(),
      {
          append_case("first_token", {{1, 1}}, smollm2),
          append_case("page1", {{3, 5}, {1, 1}, {2, 2}}, {.Hkv = 1, .D = 6, .page_size = 1}),
          append_case("page64_border", {{2, 65}, {64, 128}}, {.Hkv = 2, .page_size = 64}),
          append_case("f16", {{5, 9}}, {.Hkv = 2, .kv_dtype = DType::f16}),
          append_case("smollm2_b4", {{1, 100}, {1, 17}, {1, 16}, {1, 1}}, smollm2, true),
          append_case("smollm2_t512", {{512, 512}}, smollm2, true),
          append_case("llama_8b_b2", {{1, 33}, {1, 480}}, bf16, true),
          append_case("llama_8b_t4096", {{4096, 4096}}, bf16, true),
      }
  );
}

}  // namespace fathom::testing
