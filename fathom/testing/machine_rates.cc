#include "fathom/testing/machine_rates.h"

#include <atomic>
#include <chrono>

#include "fathom/base/cpu_features.h"
#include "fathom/testing/machine_rates_kernels.h"

namespace fathom::testing {
namespace {

// Where no level fits: what the compiler makes of plain loops.
uint64_t plain_read(const void* data, int64_t bytes) {
  const auto* from = static_cast<const uint64_t*>(data);
  uint64_t sum = 0;
  for (int64_t i = 0; i < bytes / 8; ++i) sum ^= from[i];
  return sum;
}
float plain_float_products(int64_t rounds) {
  float sum = 1;
  for (int64_t r = 0; r < rounds; ++r) sum = sum * 0.5f + 1e-9f * static_cast<float>(rounds);
  return sum;
}
int32_t plain_byte_products(int64_t rounds) {
  int32_t sum = 0;
  for (int64_t r = 0; r < rounds; ++r) sum += static_cast<int8_t>(r) * static_cast<int8_t>(rounds);
  return sum;
}

RateKernels best_kernels() {
#if defined(__x86_64__)
  if (cpu_has(CpuLevel::avx512_vnni)) return N_AVX3_DL::rate_kernels();
  if (cpu_has(CpuLevel::avx512)) return N_AVX3::rate_kernels();
  if (cpu_has(CpuLevel::avx2)) return N_AVX2::rate_kernels();
#elif defined(__aarch64__)
  return N_NEON::rate_kernels();
#endif
  return {plain_read, plain_float_products, plain_byte_products, 1, 1};
}

double seconds_of(const Exec& exec, const auto& f) {
  const auto begin = std::chrono::steady_clock::now();
  exec.on_threads(f);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

double read_rate(const Exec& exec, const void* data, int64_t bytes) {
  const RateKernels kernels = best_kernels();
  std::atomic<uint64_t> sink{0};
  const double seconds = seconds_of(exec, [&](int thread, int threads) {
    const Range range = part(bytes, 256, thread, threads);
    sink += kernels.read(static_cast<const uint8_t*>(data) + range.begin, range.end - range.begin);
  });
  return static_cast<double>(bytes) / seconds;
}

MultiplyRates multiply_rates(const Exec& exec) {
  const RateKernels kernels = best_kernels();
  constexpr int64_t kRounds = 300'000;
  std::atomic<int64_t> sink{0};
  MultiplyRates rates;
  const double flops = 2.0 * kRounds * exec.threads();
  rates.float_flops =
      flops * static_cast<double>(kernels.float_adds_per_round) / seconds_of(exec, [&](int, int) {
        sink += static_cast<int64_t>(kernels.float_products(kRounds));
      });
  rates.byte_flops = flops * static_cast<double>(kernels.byte_adds_per_round) /
                     seconds_of(exec, [&](int, int) { sink += kernels.byte_products(kRounds); });
  if (!cpu_has(CpuLevel::avx512_bf16)) return rates;
  rates.bf16_flops =
      flops * static_cast<double>(kernels.bf16_adds_per_round) / seconds_of(exec, [&](int, int) {
        sink += static_cast<int64_t>(kernels.bf16_products(kRounds));
      });
  return rates;
}

}  // namespace fathom::testing
