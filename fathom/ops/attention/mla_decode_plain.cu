// mla_decode, row cuda_plain: a CTA per query and head, in float. Takes every dtype, latent size,
// mask and page size; on a GPU it is also what large cases are compared with.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/mla_decode_rows.h"
#include "fathom/ops/attention/mla_split.cuh"
#include "fathom/ops/device/fp8.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"

namespace fathom::ops {
namespace {

constexpr int kPlainThreads = 256;
constexpr int kWarps = kPlainThreads / 32;
constexpr int kTile = 256;  // positions
constexpr int kMaxLatent = 1024, kMaxRope = 256;
constexpr int kOwnDims = kMaxLatent / kPlainThreads;

enum class Rows : uint8_t { f32, bf16, fp8 };

struct Arguments {
  mla::Step step;
  const void *q_latent, *q_rope;
  int64_t q_latent_token, q_latent_head, q_rope_token, q_rope_head, out_token, out_head, lse_token;
  const uint8_t* kv;
  int64_t page_bytes, row_bytes;
  void* out;
  float* lse;
  int latent, rope;
  int first, mask_lead;
  float scale;
  bool wide;  // q and out are f32
  Rows rows;
};

__device__ float element(const void* data, int64_t i, bool wide) {
  return wide ? static_cast<const float*>(data)[i]
              : __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
}

__device__ float cached(const Arguments& a, const uint8_t* row, int i) {
  if (a.rows != Rows::fp8) return element(row, i, a.rows == Rows::f32);
  const uint8_t* scales = row + a.latent;
  if (i >= a.latent) return element(scales + a.latent / 32, i - a.latent, false);
  return device::unpack_e4m3(row[i]).x * reinterpret_cast<const float*>(scales)[i / 128];
}

struct Query {
  int token, sequence, first, length, tree_begin;
  int64_t bits;

  __device__ bool sees(int position) const {
    const int node = position - tree_begin;
    return position >= first && (node < 0 || (bits >> (node < 64 ? node : 63) & 1) != 0);
  }
};

__device__ Query query_of(const Arguments& a, int token) {
  const mla::Step& step = a.step;
  Query query{.token = token, .sequence = mla::sequence_of(step, token), .first = a.first};
  const int first = mla::first_position(step, query.sequence);
  const int own = first + token - step.query_begin[query.sequence];
  const bool tree = step.tree_mask != nullptr;
  query.length = tree ? step.kv_length[query.sequence] : max(own + 1, 0);
  query.tree_begin = tree ? first - a.mask_lead : query.length;
  query.bits = tree ? step.tree_mask[token] : 0;
  return query;
}

__device__ float block_max(float v, float* scratch) {
  v = device::warp_max(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) v = fmaxf(v, scratch[i]);
  return v;
}

struct Shared {
  float q[kMaxLatent + kMaxRope];
  float score[kTile];
  float scratch[kWarps];
};

__device__ const uint8_t* row_of(const Arguments& a, const int* pages, int position) {
  return a.kv + pages[position / a.step.page] * a.page_bytes + position % a.step.page * a.row_bytes;
}

// A warp a position.
__device__ void score_tile(
    const Arguments& a, Shared& s, const Query& query, const int* pages, int begin, int count
) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = static_cast<int>(threadIdx.x) / 32; i < count; i += kWarps) {
    const uint8_t* row = row_of(a, pages, begin + i);
    float dot = 0;
    for (int d = lane; d < a.latent + a.rope; d += 32) dot = fmaf(s.q[d], cached(a, row, d), dot);
    dot = device::warp_sum(dot);
    if (lane == 0) s.score[i] = query.sees(begin + i) ? dot * a.scale : -INFINITY;
  }
}

__global__ void __launch_bounds__(kPlainThreads) decode_plain(const Arguments a) {
  __shared__ Shared s;
  device::wait_for_predecessor();
  const int thread = static_cast<int>(threadIdx.x);
  const Query query = query_of(a, static_cast<int>(blockIdx.x));
  const int head = static_cast<int>(blockIdx.y);
  const int* pages = a.step.pages + a.step.page_begin[query.sequence];
  for (int d = thread; d < a.latent + a.rope; d += kPlainThreads) {
    s.q[d] =
        d < a.latent
            ? element(
                  a.q_latent, query.token * a.q_latent_token + head * a.q_latent_head + d, a.wide
              )
            : element(
                  a.q_rope,
                  query.token * a.q_rope_token + head * a.q_rope_head + d - a.latent,
                  a.wide
              );
  }
  float maximum = -INFINITY, total = 0, sum[kOwnDims] = {};
  for (int begin = 0; begin < query.length; begin += kTile) {
    const int count = min(kTile, query.length - begin);
    __syncthreads();
    score_tile(a, s, query, pages, begin, count);
    __syncthreads();
    const float mine = thread < count ? s.score[thread] : -INFINITY;
    const float raised = fmaxf(maximum, block_max(mine, s.scratch));
    if (raised == -INFINITY) continue;
    const float fade = expf(maximum - raised);
    maximum = raised;
    s.score[thread] = thread < count ? expf(mine - raised) : 0.0f;
    __syncthreads();
    total *= fade;
    for (float& v : sum) v *= fade;
    for (int i = 0; i < count; ++i) {
      const float weight = s.score[i];
      total += weight;
      if (weight == 0.0f) continue;
      const uint8_t* row = row_of(a, pages, begin + i);
#pragma unroll
      for (int k = 0; k < kOwnDims; ++k) {
        const int d = thread + k * kPlainThreads;
        if (d < a.latent) sum[k] = fmaf(weight, cached(a, row, d), sum[k]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kOwnDims; ++k) {
    const int d = thread + k * kPlainThreads;
    if (d >= a.latent) continue;
    const float v = total > 0 ? sum[k] / total : 0.0f;
    const int64_t at = query.token * a.out_token + head * a.out_head + d;
    if (a.wide) {
      static_cast<float*>(a.out)[at] = v;
    } else {
      static_cast<__nv_bfloat16*>(a.out)[at] = __float2bfloat16_rn(v);
    }
  }
  if (thread == 0 && a.lse != nullptr)
    a.lse[query.token * a.lse_token + head] = total > 0 ? maximum + logf(total) : -INFINITY;
}

}  // namespace

bool mla_decode_takes_cuda_plain(const Exec&, const MlaDecode& args) {
  return args.q_latent.dim(2) <= kMaxLatent && args.q_rope.dim(2) <= kMaxRope;
}

void mla_decode_cuda_plain(Exec& exec, const MlaDecode& args) {
  const bool lse = args.lse.defined(), fp8 = args.kv.dtype == DType::u8;
  const int64_t kv_element = info(args.kv.dtype).block_bytes;
  const Arguments a{
      .step = mla::step_of(args),
      .q_latent = args.q_latent.data,
      .q_rope = args.q_rope.data,
      .q_latent_token = args.q_latent.stride(0),
      .q_latent_head = args.q_latent.stride(1),
      .q_rope_token = args.q_rope.stride(0),
      .q_rope_head = args.q_rope.stride(1),
      .out_token = args.out.stride(0),
      .out_head = args.out.stride(1),
      .lse_token = lse ? args.lse.stride(0) : 0,
      .kv = static_cast<const uint8_t*>(args.kv.data),
      .page_bytes = args.kv.stride(0) * kv_element,
      .row_bytes = args.kv.stride(1) * kv_element,
      .out = args.out.data,
      .lse = lse ? args.lse.as<float>() : nullptr,
      .latent = static_cast<int>(args.q_latent.dim(2)),
      .rope = static_cast<int>(args.q_rope.dim(2)),
      .first = static_cast<int>(args.first),
      .mask_lead = static_cast<int>(args.mask_lead),
      .scale = args.scale,
      .wide = args.q_latent.dtype == DType::f32,
      .rows = fp8                           ? Rows::fp8
              : args.kv.dtype == DType::f32 ? Rows::f32
                                            : Rows::bf16,
  };
  const dim3 grid(
      static_cast<unsigned>(args.q_latent.dim(0)), static_cast<unsigned>(args.q_latent.dim(1))
  );
  cuda::launch(exec, "mla_decode", {.grid = grid, .threads = kPlainThreads}, decode_plain, a);
}

}  // namespace fathom::ops
