#include "fathom/ops/element.h"
#include "fathom/ops/embed/embedding_rows.h"
#include "fathom/ops/gemm/pack_weight.h"

namespace fathom::ops {

void embedding_ref(Exec& exec, const Embedding& args) {
  const int64_t T = args.tokens.dim(0);
  const int64_t C = args.weight.dim(1);
  const Tensor values = exec.workspace->alloc(DType::f32, {C});
  const int32_t* tokens = args.tokens.as<int32_t>();
  for (int64_t t = 0; t < T; ++t) {
    const int32_t token = tokens[t];
    CHECK(
        token >= 0 && token < args.weight.dim(0), "token {} of {}", token, args.weight.describe()
    );
    decode_row(args.weight, token, values.as<float>());
    const Tensor y = args.y.row(t);
    for (int64_t c = 0; c < C; ++c) store_element(y, c, values.as<float>()[c]);
  }
}

}  // namespace fathom::ops
