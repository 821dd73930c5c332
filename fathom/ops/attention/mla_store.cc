#include "fathom/ops/attention/mla_store.h"

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/attention/mla_store_rows.h"
#include "fathom/ops/rope/rope_rows.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const MlaStore& args) {
  const int64_t L = args.c.dim(1), R = args.k_rope.dim(1);
  return cpu_has(kLevel) && args.kv.dtype != DType::u8 && L % 32 == 0 && R % 32 == 0 &&
         R <= kRopeMaxDim;
}

constexpr KernelRow<MlaStore> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec",
     .device = Device::Kind::cuda,
     .supports = mla_store_takes_cuda_vec,
     .run = mla_store_cuda_vec},
    {.name = "cuda_parts", .device = Device::Kind::cuda, .run = mla_store_parts},
#endif
#if defined(__x86_64__)
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::mla_store},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::mla_store},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::mla_store},
#endif
    {.name = "parts", .run = mla_store_parts},
    {.name = "ref", .run = mla_store_ref},
};
constexpr KernelTable<MlaStore> kTable{"mla_store", kRows};

}  // namespace

const KernelTable<MlaStore>& mla_store_table() {
  return kTable;
}

void mla_store(Exec& exec, const MlaStore& args) {
  const DType dtype = args.c.dtype;
  Expect expect(kTable.op, exec.device);
  expect_rows(expect, args.rows);
  expect.tensor("positions", args.positions, {"T"}, {DType::i32})
      .tensor("table", args.table, {"S", "R"}, {DType::f32})
      .tensor("c", args.c, {"T", "L"}, {DType::f32, DType::bf16})
      .tensor("weight", args.weight, {"L"}, {DType::f32})
      .tensor("latent", args.latent, {"T", "L"}, {dtype})
      .tensor("k_rope", args.k_rope, {"T", "R"}, {dtype})
      .tensor("q_rope", args.q_rope, {"T", "H", "R"}, {dtype});
  kTable.run(exec, args);
}

Cost cost(const MlaStore& args) {
  const double T = static_cast<double>(args.c.dim(0));
  const double values =
      2 * static_cast<double>(args.q_rope.elements() + args.k_rope.elements() + args.c.elements());
  const double row = static_cast<double>(args.kv.dim(2)) * info(args.kv.dtype).block_bytes;
  return {.bytes = values * info(args.c.dtype).block_bytes + T * row, .flops = 3 * values};
}

}  // namespace fathom::ops
