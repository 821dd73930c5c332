#include <cstring>

#include "fathom/ops/attention/mla_expand_rows.h"

namespace fathom::ops {

void mla_expand_ref(Exec& exec, const MlaExpand& args) {
  const int64_t H = args.keys.dim(1), R = args.k_rope.dim(1), Dv = args.values.dim(2);
  const int64_t N = args.keys.dim(2) - R, element = info(args.kv.dtype).block_bytes;
  const auto bytes = [&](int64_t n) { return static_cast<size_t>(n * element); };
  exec.parallel_for(args.kv.dim(0), 1, [&](Range rows) {
    for (int64_t s = rows.begin; s < rows.end; ++s) {
      const auto* from = static_cast<const uint8_t*>(args.kv.row(s).data);
      auto* key = static_cast<uint8_t*>(args.keys.row(s).data);
      auto* value = static_cast<uint8_t*>(args.values.row(s).data);
      for (int64_t h = 0; h < H; ++h) {
        std::memcpy(key, from, bytes(N));
        std::memcpy(key + bytes(N), args.k_rope.row(s).data, bytes(R));
        std::memcpy(value, from + bytes(N), bytes(Dv));
        from += bytes(N + Dv);
        key += bytes(N + R);
        value += bytes(Dv);
      }
    }
  });
}

}  // namespace fathom::ops
