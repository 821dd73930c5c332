// Random weights: the same for the same seed, name and shape, on every machine and with any number
// of threads. Norm weights lie around 1, everything else around 0 with deviation 0.02 or so, as
// models are initialised, so that activations stay finite.
#pragma once

#include <cstdint>
#include <string_view>

#include "fathom/core/exec.h"
#include "fathom/core/tensor.h"

namespace fathom::weights {

struct Dummy {
  uint64_t seed = 0;
  DType dtype = DType::bf16;  // of what a checkpoint would hold: f32, f16 or bf16
  bool fp8 = false;  // matrices of products are FP8, as the config of an FP8 checkpoint says
};

// Fills `t` (f32, f16 or bf16, contiguous) with the weights of `name`.
void fill_dummy(const Exec& exec, const Dummy& dummy, std::string_view name, const Tensor& t);

// The same for the codes of an FP8 matrix, f8e4m3, whose blocks all have this scale.
inline constexpr float kDummyScale = 0x1p-5f;
void fill_dummy_codes(const Exec& exec, const Dummy& dummy, std::string_view name, const Tensor& t);

}  // namespace fathom::weights
