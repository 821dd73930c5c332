// Expect: argument checks of an op, with named sizes. A letter binds at its first use and must
// agree afterwards; the failure names op, argument, wanted and got.
//
//   Expect("rms_norm", exec.device)
//       .tensor("x", args.x, {"T", "C"}, {DType::bf16, DType::f32})
//       .tensor("weight", args.weight, {"C"}, {DType::f32});
#pragma once

#include <array>
#include <initializer_list>
#include <string_view>

#include "fathom/core/tensor.h"

namespace fathom {

class Expect {
 public:
  Expect(std::string_view op, Device device) : op_(op), device_(device) {}

  // Rank and sizes by letters; any of `dtypes`. The innermost stride must be 1.
  Expect& tensor(
      std::string_view name,
      const Tensor& t,
      std::initializer_list<std::string_view> letters,
      std::initializer_list<DType> dtypes
  );
  // As tensor(), when defined.
  Expect& optional(
      std::string_view name,
      const Tensor& t,
      std::initializer_list<std::string_view> letters,
      std::initializer_list<DType> dtypes
  );
  Expect& that(bool condition, std::string_view rule);
  // The size bound to a letter.
  int64_t size(std::string_view letter) const;

 private:
  struct Binding {
    std::string_view letter;
    int64_t size = 0;
    std::string_view from;
  };
  std::string_view op_;
  Device device_;
  std::array<Binding, 16> bindings_{};
  size_t bound_ = 0;
};

}  // namespace fathom
