#include "fathom/ops/quant/expert_quant_rows.h"
#include "fathom/ops/quant/fused_quant_rows.h"

namespace fathom::ops {
namespace {

template <class Quant>
void each_expert(Exec& exec, const ExpertQuant& args, const Quant& quant) {
  for (int64_t e = 0; e < args.first.dim(0); ++e) {
    const int64_t first = args.first.as<int32_t>()[e], n = args.count.as<int32_t>()[e];
    quant(
        exec,
        FusedQuant{
            .x = args.x.slice(0, first, n),
            .prologue = args.prologue,
            .ue8m0 = args.ue8m0,
            .eps = args.eps,
            .y = args.y.slice(0, first, n),
            .scale = args.scale.slice(1, first, n)}
    );
  }
}

}  // namespace

void expert_quant_ref(Exec& exec, const ExpertQuant& args) {
  each_expert(exec, args, fused_quant_ref);
}

void expert_quant_by_expert(Exec& exec, const ExpertQuant& args) {
  each_expert(exec, args, fused_quant);
}

}  // namespace fathom::ops
