#include "fathom/testing/random_weight.h"

#include <cmath>
#include <cstring>

#include "fathom/ops/gemm/block_quants.h"
#include "fathom/ops/gemm/pack_weight.h"

namespace fathom::testing {
namespace {

void put_f16(uint8_t* at, float value) {
  const uint16_t bits = float_to_f16(value);
  std::memcpy(at, &bits, sizeof(bits));
}

// Overwrites the scales of a block of random bytes so that its values have unit deviation: codes of
// b bits are uniform, of deviation 2^b / sqrt(12).
void put_scales(DType dtype, uint8_t* block, float jitter) {
  const float unit = std::sqrt(12.0f) * jitter;
  switch (dtype) {
    case DType::q8_0:
      return put_f16(block, unit / 256);
    case DType::q4_0:
      return put_f16(block, unit / 16);
    case DType::q5_0:
      return put_f16(block, unit / 32);
    case DType::q4_1:
      put_f16(block, unit / 16);
      return put_f16(block + 2, -unit * 7.5f / 16);
    case DType::q5_1:
      put_f16(block, unit / 32);
      return put_f16(block + 2, -unit * 15.5f / 32);
    case DType::q4_k:
    case DType::q5_k: {
      // Six-bit scales and minimums average 31.5; the minimum then takes off half the codes' range.
      const float levels = dtype == DType::q4_k ? 16 : 32;
      put_f16(block, unit / levels / 37);
      return put_f16(block + 2, unit / 2 / 37);
    }
    default:
      return put_f16(block + 208, unit / 64 / 74);
  }
}

Tensor random_blocks(CaseInputs& in, DType dtype, int64_t N, int64_t K) {
  Tensor t = in.storage(dtype, {N, K});
  auto* bytes = static_cast<uint8_t*>(t.data);
  std::uniform_int_distribution<int> any(0, 255);
  std::uniform_real_distribution<float> jitter(0.7f, 1.3f);
  for (int64_t i = 0; i < t.bytes(); ++i) bytes[i] = static_cast<uint8_t>(any(in.random()));
  const int step = info(dtype).block_bytes;
  for (int64_t i = 0; i < t.bytes(); i += step) put_scales(dtype, bytes + i, jitter(in.random()));
  return t;
}

}  // namespace

Tensor random_weight(CaseInputs& in, DType dtype, int64_t N, int64_t K) {
  if (ops::is_block_quant(dtype)) return random_blocks(in, dtype, N, K);
  if (dtype == DType::i8) return in.integers(dtype, {N, K}, -128, 127);
  if (!ops::is_packed(dtype)) return in.normal(dtype, {N, K});
  const Tensor source = random_weight(in, ops::unpacked_dtype(dtype), N, K);
  Tensor packed = in.storage(dtype, {ops::packed_rows(dtype, N), K});
  ops::pack_weight(Exec{}, {.source = source, .packed = packed});
  return packed;
}

}  // namespace fathom::testing
