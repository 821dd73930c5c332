// The rows of embedding's kernel table.
#pragma once

#include "fathom/ops/embed/embedding.h"

namespace fathom::ops {

void embedding_ref(Exec& exec, const Embedding& args);

}  // namespace fathom::ops
