#include "fathom/ops/norm/rms_norm_quant_rows.h"
#include "fathom/ops/norm/rms_norm_rows.h"
#include "fathom/ops/quant/fused_quant_rows.h"

namespace fathom::ops {
namespace {

using NormRow = void (*)(Exec&, const RmsNorm&);
using QuantRow = void (*)(Exec&, const FusedQuant&);

void norm_then_quant(Exec& exec, const RmsNormQuant& args, NormRow norm, QuantRow quant) {
  Workspace::Mark mark(*exec.workspace);
  const Tensor normed = exec.workspace->alloc(args.x.dtype, {args.x.dim(0), args.x.dim(1)});
  norm(
      exec,
      {.x = args.x, .weight = args.weight, .eps = args.eps, .residual = args.residual, .y = normed}
  );
  quant(
      exec,
      {.x = normed, .ue8m0 = args.ue8m0, .eps = args.group_eps, .y = args.y, .scale = args.scale}
  );
}

}  // namespace

void rms_norm_quant_ref(Exec& exec, const RmsNormQuant& args) {
  norm_then_quant(exec, args, rms_norm_ref, fused_quant_ref);
}

void rms_norm_quant_parts(Exec& exec, const RmsNormQuant& args) {
  norm_then_quant(exec, args, rms_norm, fused_quant);
}

}  // namespace fathom::ops
