// Errors of the CUDA runtime. They are sticky: after one, every later call of the process fails
// too, so the replica stops. The message names the call, the op or span it was made for, and the
// runtime's own words.
#pragma once

#include <stdexcept>
#include <string_view>

namespace fathom::cuda {

class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws DeviceError unless `code`, a cudaError_t, is success.
void check(int code, std::string_view call, std::string_view where = {});

}  // namespace fathom::cuda
