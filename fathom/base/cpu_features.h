// Which vector instructions this CPU has, as the levels that CPU kernels are compiled for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom {

// Names are those of kernel rows. avx512 is F, BW, CD, DQ, VL; avx512_vnni adds VNNI, VBMI, VBMI2,
// BITALG, VPOPCNTDQ, VAES, VPCLMULQDQ and GFNI (Ice Lake, Zen 4 and later); avx512_bf16 adds bf16
// dot products (Zen 4, Sapphire Rapids and later).
enum class CpuLevel : uint8_t { avx2, avx512, avx512_vnni, avx512_bf16, neon };

std::string_view name(CpuLevel level);

// True when CPU and operating system support the level. Costs a load and a test.
bool cpu_has(CpuLevel level);

// The highest level found and the extras that kernels ask for, as "avx512_vnni, avx512_bf16";
// "none" when only the reference rows can run.
std::string describe_cpu_features();

// The processor's own name, "unknown" when the system does not tell.
std::string cpu_model_name();

}  // namespace fathom
