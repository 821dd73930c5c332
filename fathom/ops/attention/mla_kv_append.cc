#include "fathom/ops/attention/mla_kv_append.h"

#include "fathom/base/cpu_features.h"
#include "fathom/ops/attention/mla_decode.h"
#include "fathom/ops/attention/mla_kv_append_rows.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const MlaKvAppend& args) {
  return cpu_has(kLevel) && args.kv.dtype != DType::u8 && args.latent.dim(1) % 32 == 0 &&
         args.k_rope.dim(1) % 32 == 0;
}

constexpr KernelRow<MlaKvAppend> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec",
     .device = Device::Kind::cuda,
     .supports = mla_kv_append_takes_cuda_vec,
     .run = mla_kv_append_cuda_vec},
#endif
#if defined(__x86_64__)
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::mla_kv_append},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::mla_kv_append},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::mla_kv_append},
#endif
    {.name = "ref", .run = mla_kv_append_ref},
};
constexpr KernelTable<MlaKvAppend> kTable{"mla_kv_append", kRows};

}  // namespace

const KernelTable<MlaKvAppend>& mla_kv_append_table() {
  return kTable;
}

void mla_kv_append(Exec& exec, const MlaKvAppend& args) {
  Expect expect(kTable.op, exec.device);
  expect_rows(expect, args.rows);
  expect.tensor("latent", args.latent, {"T", "L"}, {DType::f32, DType::bf16})
      .tensor("k_rope", args.k_rope, {"T", "R"}, {args.latent.dtype})
      .tensor("kv", args.kv, {"P", "p", "row"}, {DType::f32, DType::bf16, DType::u8});
  const int64_t L = expect.size("L");
  const int64_t R = expect.size("R");
  const bool fp8 = args.kv.dtype == DType::u8;
  expect.that(!fp8 || L % 128 == 0, "FP8 rows need L to be a multiple of 128")
      .that(expect.size("row") == (fp8 ? mla_row_bytes(L, R) : L + R), "a cache row per position");
  kTable.run(exec, args);
}

Cost cost(const MlaKvAppend& args) {
  const double T = static_cast<double>(args.latent.dim(0));
  const double values = T * static_cast<double>(args.latent.dim(1) + args.k_rope.dim(1));
  const double row = static_cast<double>(args.kv.dim(2)) * info(args.kv.dtype).block_bytes;
  return {.bytes = values * info(args.latent.dtype).block_bytes + T * row, .flops = 0};
}

}  // namespace fathom::ops
