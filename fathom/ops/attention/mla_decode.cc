#include "fathom/ops/attention/mla_decode.h"

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/attention/mla_decode_rows.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const MlaDecode& args) {
  const int64_t L = args.q_latent.dim(2), R = args.q_rope.dim(2);
  return cpu_has(kLevel) && L % 64 == 0 && R % 16 == 0 && L + R <= kMlaMaxRow;
}

#if defined(__x86_64__)
bool supports_dots(const Exec& exec, const MlaDecode& args) {
  return supports<CpuLevel::avx512_bf16>(exec, args) && args.kv.dtype == DType::bf16 &&
         args.kv.dim(2) % 32 == 0;
}
#endif

constexpr KernelRow<MlaDecode> kRows[] = {
#if FATHOM_CUDA
    {.name = "sm90",
     .device = Device::Kind::cuda,
     .supports = mla_decode_takes_sm90,
     .run = mla_decode_sm90},
    {.name = "cuda_plain",
     .device = Device::Kind::cuda,
     .supports = mla_decode_takes_cuda_plain,
     .run = mla_decode_cuda_plain},
#endif
#if defined(__x86_64__)
    // Runs where the feature bf16_activations leaves it in.
    {.name = "avx512_bf16_rounded",
     .supports = supports_dots,
     .run = N_AVX3_DL::mla_decode_rounded},
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::mla_decode},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::mla_decode},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::mla_decode},
#endif
    {.name = "ref", .run = mla_decode_ref},
};
constexpr KernelTable<MlaDecode> kTable{"mla_decode", kRows};

}  // namespace

const KernelTable<MlaDecode>& mla_decode_table() {
  return kTable;
}

void mla_decode(Exec& exec, const MlaDecode& args) {
  const DType q = args.q_latent.dtype;
  Expect expect(kTable.op, exec.device);
  expect_rows(expect, args.rows);
  expect.tensor("q_latent", args.q_latent, {"T", "H", "L"}, {DType::f32, DType::bf16})
      .tensor("q_rope", args.q_rope, {"T", "H", "R"}, {q})
      .tensor("kv", args.kv, {"P", "p", "row"}, {DType::f32, DType::bf16, DType::u8})
      .optional("tree_mask", args.tree_mask, {"T"}, {DType::i64})
      .tensor("out", args.out, {"T", "H", "L"}, {q})
      .optional("lse", args.lse, {"T", "H"}, {DType::f32});
  const int64_t L = expect.size("L");
  const int64_t R = expect.size("R");
  const bool fp8 = args.kv.dtype == DType::u8;
  expect.that(!fp8 || L % 128 == 0, "FP8 rows need L to be a multiple of 128")
      .that(args.first >= 0 && args.mask_lead >= 0 && args.mask_lead < 64, "first and mask_lead")
      .that(expect.size("row") == (fp8 ? mla_row_bytes(L, R) : L + R), "a cache row per position");
  kTable.run(exec, args);
}

Cost cost(const MlaDecode& args) {
  const auto at = [](const Tensor& t, int64_t i) { return t.as<int32_t>()[i]; };
  double rows = 0, pairs = 0;
  for (int64_t b = 0; b < args.rows.kv_len.dim(0); ++b) {
    const double S = at(args.rows.kv_len, b);
    const double n = at(args.rows.row_begin, b + 1) - at(args.rows.row_begin, b);
    if (n == 0) continue;
    rows += S;
    pairs += n * (S - (n - 1) / 2);
  }
  const double L = static_cast<double>(args.q_latent.dim(2));
  const double R = static_cast<double>(args.q_rope.dim(2));
  const double queries = static_cast<double>(args.q_latent.dim(0) * args.q_latent.dim(1));
  return {
      .bytes = rows * static_cast<double>(args.kv.dim(2)) * info(args.kv.dtype).block_bytes +
               queries * (2 * L + R) * info(args.q_latent.dtype).block_bytes,
      .flops = 2 * pairs * static_cast<double>(args.q_latent.dim(1)) * (2 * L + R),
  };
}

}  // namespace fathom::ops
