// The rows of qk_norm's kernel table.
#pragma once

#include "fathom/ops/norm/qk_norm.h"

namespace fathom::ops {

void qk_norm_ref(Exec& exec, const QkNorm& args);
bool qk_norm_takes_cuda_vec(const Exec& exec, const QkNorm& args);
void qk_norm_cuda_vec(Exec& exec, const QkNorm& args);

}  // namespace fathom::ops
