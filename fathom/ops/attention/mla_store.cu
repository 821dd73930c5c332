// mla_store, row cuda_vec: for each token a CTA for its latent and key, eight latents a thread, and
// CTAs for its queries, four pairs a thread. The norm's weights are loaded before the predecessor
// is waited for.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/mla_store_rows.h"
#include "fathom/ops/attention/paged_rows.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kThreads = 256;
constexpr int kPairs = 4;  // of a head, that a thread rotates: 16 bytes
constexpr int64_t kMaxLatent = kThreads * 8;
constexpr float kEps = 1e-10f;  // of an FP8 group

struct Arguments {
  attention::Rows rows;
  const int32_t* positions;
  const float *table, *weight;
  const __nv_bfloat16* c;
  __nv_bfloat16 *latent, *k_rope, *q_rope;
  uint8_t* kv;
  int64_t table_stride, c_stride, latent_stride, k_stride, q_token, q_head;
  int64_t page_bytes, row_bytes;
  int L, half, heads, page;  // half: pairs of a head
  float eps;
  bool fp8;
};

// Where the token's row of the cache begins; null for a token beyond the last row.
__device__ uint8_t* place_of(const Arguments& a, int token) {
  const int row = attention::row_of(a.rows, token);
  if (token >= a.rows.row_begin[row + 1]) return nullptr;
  const int position = attention::position_of(a.rows, row, token);
  const int64_t page = a.rows.pages[a.rows.page_begin[row] + position / a.page];
  return a.kv + page * a.page_bytes + position % a.page * a.row_bytes;
}

// kPairs pairs from `pair` on of a head at `x`, rotated to the token's position in place.
__device__ uint4 rotate(const Arguments& a, __nv_bfloat16* x, int token, int pair) {
  auto* place = reinterpret_cast<uint4*>(x + 2 * pair);
  const uint4 raw = *place;
  const float* table = a.table + a.positions[token] * a.table_stride + pair;
  float cosine[kPairs], sine[kPairs], v[2 * kPairs];
  device::load_floats<kPairs>(table, cosine);
  device::load_floats<kPairs>(table + a.half, sine);
  Vec<__nv_bfloat16>::unpack(raw, v);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const float x0 = v[2 * i], x1 = v[2 * i + 1];
    v[2 * i] = x0 * cosine[i] - x1 * sine[i];
    v[2 * i + 1] = x1 * cosine[i] + x0 * sine[i];
  }
  return *place = Vec<__nv_bfloat16>::pack(v);
}

__device__ void rotate_query(const Arguments& a, int token) {
  const int item = (static_cast<int>(blockIdx.y) - 1) * kThreads + static_cast<int>(threadIdx.x);
  const int of_head = a.half / kPairs, head = item / of_head;
  if (head >= a.heads) return;
  rotate(a, a.q_rope + token * a.q_token + head * a.q_head, token, item % of_head * kPairs);
}

// Eight normed latents, as they are rounded, into the cache.
__device__ void append_latents(const Arguments& a, uint8_t* to, int first, uint4 normed) {
  if (!a.fp8) {
    *reinterpret_cast<uint4*>(to + 2 * first) = normed;
    return;
  }
  float v[8];
  Vec<__nv_bfloat16>::unpack(normed, v);
  const float scale = group_scale<16>(v, kEps, false);
  const uint2 codes = quantise(v, scale);
  auto* words = reinterpret_cast<uint32_t*>(to + first);
  words[0] = codes.x;
  words[1] = codes.y;
  if (first % 128 == 0) reinterpret_cast<float*>(to + a.L)[first / 128] = scale;
}

// kPairs pairs of the rotated key into the cache; of FP8 rows words alone are aligned.
__device__ void append_key(const Arguments& a, uint8_t* to, int pair, uint4 key) {
  if (!a.fp8) {
    *reinterpret_cast<uint4*>(to + 2 * a.L + 4 * pair) = key;
    return;
  }
  auto* words = reinterpret_cast<uint32_t*>(to + a.L + a.L / 32) + pair;
  words[0] = key.x;
  words[1] = key.y;
  words[2] = key.z;
  words[3] = key.w;
}

__global__ void __launch_bounds__(kThreads) store(const Arguments a) {
  __shared__ float scratch[kThreads / 32];
  const int token = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int first = thread * 8;
  const bool own = blockIdx.y == 0 && first < a.L;  // whole warps: L is a multiple of 256
  float weight[8] = {};
  if (own) device::load_floats<8>(a.weight + first, weight);
  device::launch_successor();
  device::wait_for_predecessor();
  if (blockIdx.y > 0) return rotate_query(a, token);
  float v[8] = {}, squares = 0;
  if (own) {
    Vec<__nv_bfloat16>::unpack(
        *reinterpret_cast<const uint4*>(a.c + token * a.c_stride + first), v
    );
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) squares += v[i] * v[i];
  const float total = device::block_sum<kThreads / 32>(squares, scratch);
  const float scale = rsqrtf(total / static_cast<float>(a.L) + a.eps);
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] *= scale * weight[i];
  const uint4 normed = Vec<__nv_bfloat16>::pack(v);
  if (own) *reinterpret_cast<uint4*>(a.latent + token * a.latent_stride + first) = normed;
  uint8_t* to = place_of(a, token);
  if (own && to != nullptr) append_latents(a, to, first, normed);
  for (int pair = thread * kPairs; pair < a.half; pair += kThreads * kPairs) {
    const uint4 key = rotate(a, a.k_rope + token * a.k_stride, token, pair);
    if (to != nullptr) append_key(a, to, pair, key);
  }
}

}  // namespace

bool mla_store_takes_cuda_vec(const Exec&, const MlaStore& args) {
  const int64_t bytes = info(args.kv.dtype).block_bytes, L = args.c.dim(1), R = args.k_rope.dim(1);
  const auto aligned = [](const Tensor& t, int64_t to) {
    return reinterpret_cast<uintptr_t>(t.data) % static_cast<size_t>(to) == 0 &&
           t.stride(0) * info(t.dtype).block_bytes % to == 0;
  };
  const bool fp8 = args.kv.dtype == DType::u8;
  const int64_t row = fp8 ? 4 : 16;  // what is written at once
  return args.c.dtype == DType::bf16 && (fp8 || args.kv.dtype == DType::bf16) && L % 256 == 0 &&
         L <= kMaxLatent && R % (2 * kPairs) == 0 && args.positions.dim(0) == args.c.dim(0) &&
         aligned(args.c, 16) && aligned(args.latent, 16) && aligned(args.k_rope, 16) &&
         aligned(args.q_rope, 16) && args.q_rope.stride(1) % 8 == 0 && aligned(args.table, 16) &&
         aligned(args.kv, row) && args.kv.stride(1) * bytes % row == 0 &&
         reinterpret_cast<uintptr_t>(args.weight.data) % 16 == 0;
}

void mla_store_cuda_vec(Exec& exec, const MlaStore& args) {
  if (args.rows.kv_len.dim(0) == 0) return;
  const int64_t bytes = info(args.kv.dtype).block_bytes;
  const Arguments a{
      .rows = attention::rows_of(args.rows),
      .positions = args.positions.as<int32_t>(),
      .table = args.table.as<float>(),
      .weight = args.weight.as<float>(),
      .c = static_cast<const __nv_bfloat16*>(args.c.data),
      .latent = static_cast<__nv_bfloat16*>(args.latent.data),
      .k_rope = static_cast<__nv_bfloat16*>(args.k_rope.data),
      .q_rope = static_cast<__nv_bfloat16*>(args.q_rope.data),
      .kv = static_cast<uint8_t*>(args.kv.data),
      .table_stride = args.table.stride(0),
      .c_stride = args.c.stride(0),
      .latent_stride = args.latent.stride(0),
      .k_stride = args.k_rope.stride(0),
      .q_token = args.q_rope.stride(0),
      .q_head = args.q_rope.stride(1),
      .page_bytes = args.kv.stride(0) * bytes,
      .row_bytes = args.kv.stride(1) * bytes,
      .L = static_cast<int>(args.c.dim(1)),
      .half = static_cast<int>(args.k_rope.dim(1) / 2),
      .heads = static_cast<int>(args.q_rope.dim(1)),
      .page = static_cast<int>(args.kv.dim(1)),
      .eps = args.eps,
      .fp8 = args.kv.dtype == DType::u8,
  };
  const int queries = (a.heads * a.half / kPairs + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(args.c.dim(0)), static_cast<unsigned>(1 + queries));
  cuda::launch(exec, "mla_store", {.grid = grid, .threads = kThreads}, store, a);
}

}  // namespace fathom::ops
