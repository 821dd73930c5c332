#include "fathom/base/cpu_features.h"

#include <fmt/format.h>
#include <fstream>

namespace fathom {
namespace {

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

bool has_avx512_vnni() {
  return has_avx512() && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
         __builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("avx512vpopcntdq") &&
         __builtin_cpu_supports("vaes") && __builtin_cpu_supports("vpclmulqdq") &&
         __builtin_cpu_supports("gfni");
}
#endif

}  // namespace

std::string_view name(CpuLevel level) {
  switch (level) {
    case CpuLevel::avx2:
      return "avx2";
    case CpuLevel::avx512:
      return "avx512";
    case CpuLevel::avx512_vnni:
      return "avx512_vnni";
    case CpuLevel::avx512_bf16:
      return "avx512_bf16";
    default:
      return "neon";
  }
}

bool cpu_has(CpuLevel level) {
#if defined(__x86_64__)
  switch (level) {
    case CpuLevel::avx2:
      return has_avx2();
    case CpuLevel::avx512:
      return has_avx512();
    case CpuLevel::avx512_vnni:
      return has_avx512_vnni();
    case CpuLevel::avx512_bf16:
      return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16");
    default:
      return false;
  }
#elif defined(__aarch64__)
  return level == CpuLevel::neon;
#else
  return false;
#endif
}

std::string describe_cpu_features() {
  std::string text = "none";
  for (const CpuLevel level :
       {CpuLevel::avx2, CpuLevel::avx512, CpuLevel::avx512_vnni, CpuLevel::neon}) {
    if (cpu_has(level)) text = name(level);
  }
  if (cpu_has(CpuLevel::avx512_bf16)) text += fmt::format(", {}", name(CpuLevel::avx512_bf16));
  return text;
}

std::string cpu_model_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace fathom
