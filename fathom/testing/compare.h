// Comparing a kernel's output with the reference's, and moving a case's tensors to a device and
// back.
#pragma once

#include <string>
#include <vector>

#include "fathom/core/buffer.h"
#include "fathom/core/kernel_table.h"

namespace fathom::testing {

// |got - wanted| <= absolute + relative * |wanted| for every element, and 1 - cosine <= cosine over
// the tensor. Integers must be equal. Inf and NaN must stand in the same places.
struct Bound {
  double absolute = 0;
  double relative = 0;
  double cosine = 1e-6;
};

// "" when within the bound; else the worst element, its place and both values.
std::string compare(const Tensor& got, const Tensor& wanted, const Bound& bound);

// Copies the tensors of a case to a device and back. On the CPU nothing is copied.
class DeviceMirror {
 public:
  explicit DeviceMirror(Device device) : device_(device) {}

  void to_device(Tensor& t, Role role);  // t becomes the device's copy
  // Puts poison where the inputs are, and a kernel on exec's stream that writes them late
  // (late_writer.h): what runs next must wait for it.
  void delay_inputs(const Exec& exec);
  // t, a device's tensor, becomes a copy of itself.
  void duplicate(Tensor& t);
  void to_host();                      // after the run: waits, copies outputs back
  void restore(Tensor& t, Role role);  // in the order of to_device: t becomes the host's view again

 private:
  struct Copy {
    Tensor host;
    Buffer memory;
    Buffer late;  // an input's values while `memory` holds poison
    int64_t bytes = 0;
    Role role;
  };
  Device device_;
  MemoryLedger ledger_;
  std::vector<Copy> copies_;
  size_t restored_ = 0;
};

}  // namespace fathom::testing
