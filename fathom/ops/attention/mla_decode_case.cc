#include "fathom/ops/attention/mla_decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::MlaDecode;

// float sums of 576 products and of S weights.
constexpr Bound kF32{.absolute = 2e-5, .relative = 1e-4};
// Probabilities rounded to bf16 (2^-9 each, averaged over the keys), output rounded to bf16.
constexpr Bound kBf16{.absolute = 4e-3, .relative = 0x1p-6, .cosine = 1e-4};

// Queries rounded too: a score of deviation 2 moves by 2 * 2^-9 / sqrt(3) a standard deviation, a
// weight by as much of itself; four of them, on values of 1, beside the above.
constexpr Bound kRounded{.absolute = 1.3e-2, .relative = 0x1p-6, .cosine = 1e-4};

struct Sequence {
  int64_t queries, length;
};

struct Shape {
  std::vector<Sequence> sequences;
  int64_t H = 16;
  int64_t page = 64;
  DType dtype = DType::bf16;
  bool fp8_rows = false;
  bool tree = false;
  int64_t L = 512, R = 64;
  int64_t first = 0, lead = 0;
  DType rows = dtype;  // of the cache, where it is of floats
  float size = 1.0f;   // of FP8 rows; of their queries one over it
};

// FP8 rows: codes and rope values as normal() rounds them, scales near size / 100.
Tensor fp8_cache(CaseInputs& in, int64_t P, int64_t p, int64_t L, int64_t R, float size) {
  Tensor kv = in.storage(DType::u8, {P, p, ops::mla_row_bytes(L, R)});
  const Tensor codes = in.normal(DType::f8e4m3, {P * p, L}, 100.0f);
  const Tensor rope = in.normal(DType::bf16, {P * p, R}, size);
  std::uniform_real_distribution<float> law(0.005f * size, 0.015f * size);
  for (int64_t row = 0; row < P * p; ++row) {
    uint8_t* to = kv.as<uint8_t>() + row * kv.stride(1);
    std::memcpy(to, codes.row(row).data, static_cast<size_t>(L));
    for (int64_t i = 0; i < L / 128; ++i) {
      const float scale = law(in.random());
      std::memcpy(to + L + 4 * i, &scale, sizeof(scale));
    }
    std::memcpy(to + L + L / 32, rope.row(row).data, static_cast<size_t>(2 * R));
  }
  return kv;
}

// A chain of queries in which node i sees the root, itself and every second node before it.
Tensor tree_masks(CaseInputs& in, const Shape& s, int64_t T) {
  Tensor mask = in.storage(DType::i64, {T});
  int64_t t = 0;
  for (const Sequence& sequence : s.sequences) {
    for (int64_t i = 0; i < sequence.queries; ++i, ++t) {
      int64_t bits = 1 | int64_t{1} << (s.lead + i);
      for (int64_t j = s.lead + i - 2; j > 0; j -= 2) bits |= int64_t{1} << j;
      mask.as<int64_t>()[t] = bits;
    }
  }
  return mask;
}

// Pages are handed out in a shuffled order; page 0 is in no table.
void lay_out_pages(CaseInputs& in, const Shape& s, MlaDecode& args) {
  std::vector<int32_t> page_begin{0}, row_begin{0}, length;
  for (const Sequence& sequence : s.sequences) {
    page_begin.push_back(
        page_begin.back() + static_cast<int32_t>((sequence.length + s.page - 1) / s.page)
    );
    row_begin.push_back(row_begin.back() + static_cast<int32_t>(sequence.queries));
    length.push_back(static_cast<int32_t>(sequence.length));
  }
  std::vector<int32_t> pages(static_cast<size_t>(page_begin.back()));
  std::iota(pages.begin(), pages.end(), 1);
  std::shuffle(pages.begin(), pages.end(), in.random());
  const int64_t B = static_cast<int64_t>(length.size());
  args.rows.pages = in.values({page_begin.back()}, pages);
  args.rows.page_begin = in.values({B + 1}, page_begin);
  args.rows.row_begin = in.values({B + 1}, row_begin);
  args.rows.kv_len = in.values({B}, length);
}

MlaDecode make(CaseInputs& in, const Shape& s) {
  MlaDecode args;
  lay_out_pages(in, s, args);
  const int64_t T = args.rows.row_begin.as<int32_t>()[s.sequences.size()];
  const int64_t P = args.rows.pages.dim(0) + 1;
  args.q_latent = in.normal(s.dtype, {T, s.H, s.L}, 1 / s.size);
  // As it stands in the q_b output: behind 128 values of every head.
  args.q_rope = in.normal(s.dtype, {T, s.H, 128 + s.R}, 1 / s.size).slice(2, 128, s.R);
  args.kv = s.fp8_rows ? fp8_cache(in, P, s.page, s.L, s.R, s.size)
                       : in.normal(s.rows, {P, s.page, s.L + s.R});
  if (s.tree) args.tree_mask = tree_masks(in, s, T);
  args.mask_lead = s.lead;
  args.first = s.first;
  args.scale = 2.0f / std::sqrt(static_cast<float>(s.L + s.R));
  args.out = in.output(s.dtype, {T, s.H, s.L});
  args.lse = in.output(DType::f32, {T, s.H});
  return args;
}

Bound bound_of(const Shape& s) {
  Bound bound = s.dtype == DType::bf16 ? kBf16 : s.rows == DType::bf16 ? kRounded : kF32;
  bound.absolute *= std::max(1.0f, s.size);  // small ones the cosine tells
  return bound;
}

OpCase<MlaDecode> mla_case(std::string name, Shape s, bool bench = false) {
  double work = 0;
  for (const Sequence& q : s.sequences)
    work += static_cast<double>(q.length * q.queries * s.H * (s.L + s.R));
  return {
      .name = std::move(name),
      .make = [=](CaseInputs& in) { return make(in, s); },
      .bound = bound_of(s),
      .bench = bench,
      .large = work > 2e7,
  };
}

// FP8 rows whose values, or whose queries, F16 does not hold.
OpCase<MlaDecode> fp8_rows_of_size(std::string name, Shape s, float size) {
  s.fp8_rows = true;
  s.size = size;
  return mla_case(std::move(name), s);
}

// float queries, a bf16 cache.
OpCase<MlaDecode> bf16_rows(std::string name, Shape s, bool bench = false) {
  s.rows = DType::bf16;
  return mla_case(std::move(name), s, bench);
}

std::vector<Sequence> same(int64_t B, int64_t queries, int64_t length) {
  return std::vector<Sequence>(static_cast<size_t>(B), {queries, length});
}

}  // namespace

OpSuite mla_decode_suite() {
  const DType f32 = DType::f32, bf16 = DType::bf16;
  const std::vector<Sequence> mixed{{1, 17}, {0, 9}, {4, 4}, {1, 1}, {3, 70}, {1, 130}};
  std::vector<OpCase<MlaDecode>> cases = {
      mla_case("b0", {{}, 4, 64, f32}),
      mla_case("padded", {{{1, 20}, {1, 0}, {1, 5}}, 4, 16, f32}),
      mla_case("small_latent", {mixed, 3, 4, f32, false, false, 32, 8}),
      mla_case("mixed_page1", {mixed, 2, 1, f32}),
      mla_case("mixed_page5", {mixed, 2, 5, f32}),
      mla_case("mixed_page64", {mixed, 2, 64, f32}),
      mla_case("mixed_page1_bf16", {mixed, 16, 1, bf16}),
      mla_case("mixed_page16_bf16", {mixed, 16, 16, bf16}),
      mla_case("mixed_page64_bf16", {mixed, 16, 64, bf16}),
      mla_case("mixed_page7_bf16", {mixed, 5, 7, bf16}),
      mla_case("mixed_page128_bf16", {mixed, 40, 128, bf16}),
      mla_case(
          "uneven_bf16", {{{1, 700}, {1, 1}, {1, 0}, {1, 2500}, {2, 65}, {1, 64}}, 16, 64, bf16}
      ),
      mla_case("fp8_rows_f32", {mixed, 2, 64, f32, true}),
      mla_case("fp8_rows_page16", {mixed, 16, 16, bf16, true}),
      mla_case("fp8_rows_page64", {mixed, 16, 64, bf16, true}),
      mla_case("fp8_rows_page1", {mixed, 5, 1, bf16, true}),
      mla_case("fp8_rows_page7", {mixed, 32, 7, bf16, true}),
      mla_case("fp8_rows_tree", {{{8, 100}, {8, 8}, {5, 66}}, 16, 64, bf16, true, true}),
      mla_case("tree_f32", {{{8, 100}, {8, 8}, {5, 66}}, 2, 16, f32, false, true}),
      mla_case(
          "draft_chain_f32", {{{1, 100}, {3, 9}, {1, 2}}, 2, 16, f32, false, false, 512, 64, 1}
      ),
      mla_case(
          "draft_tree_f32", {{{4, 100}, {4, 13}, {4, 66}}, 2, 16, f32, false, true, 512, 64, 1, 8}
      ),
      mla_case("tree_bf16", {{{8, 100}, {8, 8}, {5, 66}}, 16, 64, bf16, false, true}),
      bf16_rows("mixed_bf16_rows", {mixed, 5, 7, f32}),
      bf16_rows("tree_bf16_rows", {{{8, 100}, {8, 8}, {5, 66}}, 8, 16, f32, false, true}),
      bf16_rows(
          "draft_chain_bf16_rows", {{{1, 100}, {3, 9}}, 2, 16, f32, false, false, 512, 64, 1}
      ),
      mla_case("nano_b1", {same(1, 1, 300), 8, 16, f32}, true),
      bf16_rows("nano_b1_bf16_rows", {same(1, 1, 300), 8, 16, f32}, true),
      bf16_rows("nano_verify3_bf16_rows", {same(1, 3, 300), 8, 16, f32}, true),
      mla_case("v3_whole_b4_tree4", {same(4, 4, 2000), 128, 64, bf16, false, true}, true),
      mla_case("v3_whole_prefill", {same(1, 512, 2048), 128}, true),
  };
  // Keys enough for 64 heads a CTA: of two groups of heads, of one, of three; by boxes and by rows.
  const std::vector<Sequence> uneven{{1, 700}, {1, 1}, {1, 0}, {1, 2500}, {2, 65}, {1, 1300}};
  cases.push_back(mla_case("uneven_h128_page64", {uneven, 128, 64, bf16}));
  cases.push_back(mla_case("uneven_h128_page16", {uneven, 128, 16, bf16}));
  cases.push_back(mla_case("uneven_h128_page1", {uneven, 128, 1, bf16}));
  cases.push_back(mla_case("uneven_h64_page32", {uneven, 64, 32, bf16}));
  cases.push_back(mla_case("uneven_h192_page128", {uneven, 192, 128, bf16}));
  cases.push_back(fp8_rows_of_size("large_h16_fp8_rows", {uneven, 16, 64, bf16}, 0x1p20f));
  cases.push_back(fp8_rows_of_size("small_h16_fp8_rows", {uneven, 16, 64, bf16}, 0x1p-20f));
  cases.push_back(fp8_rows_of_size("large_h128_fp8_rows", {uneven, 128, 64, bf16}, 0x1p20f));
  cases.push_back(fp8_rows_of_size("small_h128_fp8_rows", {uneven, 128, 64, bf16}, 0x1p-20f));
  cases.push_back(mla_case("uneven_h16_fp8_rows", {uneven, 16, 64, bf16, true}));
  cases.push_back(mla_case("uneven_h32_fp8_rows", {uneven, 32, 16, bf16, true}));
  cases.push_back(mla_case("uneven_h128_fp8_rows", {uneven, 128, 64, bf16, true}));
  cases.push_back(mla_case("uneven_h128_page16_fp8_rows", {uneven, 128, 16, bf16, true}));
  cases.push_back(mla_case("uneven_h64_page8_fp8_rows", {uneven, 64, 8, bf16, true}));
  cases.push_back(mla_case("uneven_h192_fp8_rows", {uneven, 192, 7, bf16, true}));
  for (const int64_t H : {16, 128}) {
    const std::string who = H == 16 ? "v3_tp8" : "v3_whole";
    for (const auto& [B, S] :
         {std::pair{1, 1024},
          {1, 4096},
          {1, 16384},
          {1, 65536},
          {8, 4096},
          {32, 4096},
          {128, 1024},
          {128, 4096},
          {128, 16384}}) {
      cases.push_back(mla_case(
          who + "_b" + std::to_string(B) + "_s" + std::to_string(S), {same(B, 1, S), H}, true
      ));
    }
    for (const auto& [B, S] : {std::pair{1, 4096}, {8, 4096}, {32, 4096}, {128, 4096}}) {
      const std::string shape = "_b" + std::to_string(B) + "_s" + std::to_string(S);
      cases.push_back(
          mla_case(who + shape + "_fp8_rows", {same(B, 1, S), H, 64, DType::bf16, true}, true)
      );
    }
  }
  return make_suite<MlaDecode>(ops::mla_decode_table(), std::move(cases));
}

}  // namespace fathom::testing
