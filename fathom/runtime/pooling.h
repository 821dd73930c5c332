// How an embedding request's hidden states become one vector. Host memory.
#pragma once

#include <vector>

#include "fathom/core/tensor.h"

namespace fathom::runtime {

enum class Pooling : uint8_t { last, mean };

// pooled += state [C], which may be empty before.
void add_state(std::vector<double>& pooled, const Tensor& state);
// `vector`: `pooled` cut to unit length, as clients of embeddings expect; a mean's divisor falls
// out. False: it is not finite.
bool unit_vector(const std::vector<double>& pooled, std::vector<float>& vector);

}  // namespace fathom::runtime
