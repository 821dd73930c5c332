// The rows of embedding's kernel table.
#pragma once

#include "fathom/ops/embed/embedding.h"

namespace fathom::ops {

void embedding_ref(Exec& exec, const Embedding& args);
bool embedding_takes_cuda_vec(const Exec& exec, const Embedding& args);
void embedding_cuda_vec(Exec& exec, const Embedding& args);

}  // namespace fathom::ops
