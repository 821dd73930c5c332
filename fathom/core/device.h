// Where memory lies and kernels run. A value.
#pragma once

#include <cstdint>
#include <string>

namespace fathom {

struct Device {
  enum class Kind : uint8_t { cpu, cuda };
  Kind kind = Kind::cpu;
  int8_t index = 0;

  static constexpr Device cpu() { return {}; }
  static constexpr Device cuda(int index = 0) { return {Kind::cuda, static_cast<int8_t>(index)}; }
  bool is_cpu() const { return kind == Kind::cpu; }
  bool is_cuda() const { return kind == Kind::cuda; }
  bool operator==(const Device&) const = default;
  std::string describe() const { return is_cpu() ? "cpu" : "cuda:" + std::to_string(index); }
};

}  // namespace fathom
