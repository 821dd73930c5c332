// Scales of FP8 matrices that are made of several parts.
#pragma once

#include <cstring>

#include "fathom/core/tensor.h"
#include "fathom/ops/quant/fp8_blocks.h"

namespace fathom::weights {

// A part's scales to where row `from` of the whole has its own; nothing where either has none.
inline void copy_scale(const Tensor& part, int64_t from, const Tensor& all) {
  if (!part.defined() || !all.defined()) return;
  const Tensor to = all.slice(0, from / ops::kFp8Block, part.dim(0));
  std::memcpy(to.data, part.data, static_cast<size_t>(part.bytes()));
}

}  // namespace fathom::weights
