// bf16_gemm, row resident: 2 to 16 tokens whose activations a CTA holds in registers, each warp its
// part of K, for as long as it runs. docs/kernels/bf16_gemm.md.
//
// A group is eight rows of weights. A warp takes 256 k of them at a time: a box by TMA into a queue
// of its own, those of the first groups before the predecessor has ended. Weights are mma.sync's
// 8-column operand B, tokens its 16-row operand A; lane 4 g + t holds the 16-byte pieces t and t +
// 4 of row g and of token g: k is permuted alike in both. The warps meet once a group and add up in
// their order. The first groups are dealt, the others claimed.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/mma_sync.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/bf16_gemm_rows.h"
#include "fathom/ops/gemm/row_claims.cuh"

namespace fathom::ops {
namespace {

constexpr int kRows = 8;
constexpr int kPanel = 64;  // k of 128 bytes
constexpr int kPanels = 4;  // of a box
constexpr int kBoxK = kPanel * kPanels;
constexpr int kBoxBytes = kRows * kBoxK * 2;
constexpr int kMaxTokens = 16;
constexpr int kDepth = 3;           // boxes of a warp on their way
constexpr int kDealt = kDepth + 1;  // groups that a CTA knows when it asks for their boxes

struct Arguments {
  const __nv_bfloat16* x;
  const void* bias;
  void* y;
  uint32_t* claims;  // zero
  int64_t x_stride, y_stride;
  int M, N, K;
  int groups;
  bool wide_y, wide_bias;
};

// Each warp takes one box of a group.
template <int Tokens, int Warps>
struct Shape {
  static constexpr int kTokens = Tokens, kWarps = Warps;
  static constexpr int kHalves = Tokens / 8;
  // Eight warps take half an SM, so that the successor's queues fill beside this one.
  static constexpr int kResident = Warps > 8 ? 1 : 2;
};

template <class S>
struct SharedStorage {
  uint8_t queue[S::kWarps][kDepth][kBoxBytes];
  float part[2][S::kWarps][S::kTokens][kRows];
  int group[2];  // claimed
  device::Barrier full[S::kWarps][kDepth];
};

template <class S>
struct Resident {
  const Arguments& a;
  const device::TensorMap& w;
  SharedStorage<S>& s;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  uint4 x[kPanels][2][S::kHalves];
  int known[kDealt];  // the groups from the present one on

  __device__ void copy(int group, int slot) {
    if (lane != 0 || group >= a.groups) return;
    device::Barrier& full = s.full[warp][slot];
    full.arrive_expect(kBoxBytes);
    device::box_load_3d(
        s.queue[warp][slot], w, 0, warp * kPanels, group * kRows, full, device::kEvictFirst
    );
  }

  __device__ void fetch() {
#pragma unroll
    for (int p = 0; p < kPanels; ++p) {
#pragma unroll
      for (int i = 0; i < 2 * S::kHalves; ++i) {
        const int token = i / 2 * 8 + lane / 4;
        const int k = warp * kBoxK + p * kPanel + i % 2 * 32 + lane % 4 * 8;
        const __nv_bfloat16* from = a.x + token * a.x_stride + k;
        x[p][i % 2][i / 2] = token < a.M && k < a.K ? __ldcg(reinterpret_cast<const uint4*>(from))
                                                    : uint4{0, 0, 0, 0};
      }
    }
  }

  __device__ void multiply(float (&sum)[2][4], const uint8_t* box) const {
    const int row = lane / 4;
#pragma unroll
    for (int p = 0; p < kPanels; ++p) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int piece = (lane % 4 + 4 * i) ^ (4 * (row % 2) + p);
        const uint4 v =
            *reinterpret_cast<const uint4*>(box + row * kBoxK * 2 + p * 128 + piece * 16);
        const uint4 low = x[p][i][0];
        const uint4 high = S::kHalves > 1 ? x[p][i][S::kHalves - 1] : uint4{0, 0, 0, 0};
        device::mma_bf16_sync(sum[0], low.x, high.x, low.y, high.y, v.x, v.y);
        device::mma_bf16_sync(sum[1], low.z, high.z, low.w, high.w, v.z, v.w);
      }
    }
  }

  __device__ void leave(const float (&sum)[2][4], int turn) {
#pragma unroll
    for (int h = 0; h < S::kHalves; ++h) {
      float* out = s.part[turn][warp][h * 8 + lane / 4] + lane % 4 * 2;
      *reinterpret_cast<float2*>(out) = {
          sum[0][2 * h] + sum[1][2 * h], sum[0][2 * h + 1] + sum[1][2 * h + 1]};
    }
  }

  // What the warps left of a group becomes y.
  __device__ void store(int group, int turn) const {
    const int i = static_cast<int>(threadIdx.x), token = i / kRows, n = group * kRows + i % kRows;
    if (token >= a.M || n >= a.N) return;
    float v = 0;
#pragma unroll
    for (int k = 0; k < S::kWarps; ++k) v += s.part[turn][k][token][i % kRows];
    if (a.bias != nullptr) {
      v += a.wide_bias ? __ldg(static_cast<const float*>(a.bias) + n)
                       : __bfloat162float(static_cast<const __nv_bfloat16*>(a.bias)[n]);
    }
    if (a.wide_y) {
      static_cast<float*>(a.y)[token * a.y_stride + n] = v;
    } else {
      static_cast<__nv_bfloat16*>(a.y)[token * a.y_stride + n] = __float2bfloat16_rn(v);
    }
  }

  __device__ void begin() {
    if (lane == 0) {
      for (int i = 0; i < kDepth; ++i) s.full[warp][i].init(1);
      device::fence_barrier_init();
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kDealt; ++i)
      known[i] = static_cast<int>(blockIdx.x) + i * static_cast<int>(gridDim.x);
#pragma unroll
    for (int i = 0; i < kDepth; ++i) copy(known[i], i);
  }

  __device__ void run() {
    begin();
    device::launch_successor();
    device::wait_for_predecessor();
    RowClaims claims(a.groups, kDealt);
    if (threadIdx.x == 0) claims.ask(a.claims);
    fetch();
    device::Ring<kDepth> ring;
    for (int turn = 0; known[0] < a.groups; turn ^= 1) {
      float sum[2][4] = {};
      s.full[warp][ring.stage].wait(ring.full_parity());
      multiply(sum, s.queue[warp][ring.stage]);
      __syncwarp();
      copy(known[kDepth], ring.stage);
      ring.advance();
      leave(sum, turn);
      if (threadIdx.x == 0) {
        s.group[turn] = claims.take(a.claims, a.groups);
        claims.ask(a.claims);
      }
      __syncthreads();
      store(known[0], turn);
#pragma unroll
      for (int i = 1; i < kDealt; ++i) known[i - 1] = known[i];
      known[kDealt - 1] = s.group[turn];
    }
  }
};

template <class S>
__global__ void __launch_bounds__(S::kWarps * 32, S::kResident)
    resident(const Arguments a, const __grid_constant__ device::TensorMap w) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Resident<S>{a, w, *reinterpret_cast<SharedStorage<S>*>(memory)}.run();
}

template <class S>
void launch(Exec& exec, const Arguments& a, const Tensor& weight) {
  const auto K = static_cast<uint64_t>(a.K), N = static_cast<uint64_t>(a.N);
  const int ctas = std::min(a.groups, cuda::multiprocessors(exec.device.index));
  cuda::launch(
      exec,
      "bf16_gemm",
      {.grid = dim3(static_cast<unsigned>(ctas)),
       .threads = S::kWarps * 32,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<S>))},
      resident<S>,
      a,
      cuda::make_tensor_map(
          {.data = weight.data,
           .dtype = DType::bf16,
           .rank = 3,
           .dims = {kPanel, K / kPanel, N},
           .stride_bytes = {kPanel * 2, static_cast<uint64_t>(weight.stride(0)) * 2},
           .box = {kPanel, kPanels, kRows}}
      )
  );
}

// Calls f with the shape that holds M tokens of K.
template <class F>
bool with_shape(int64_t M, int64_t K, F f) {
  if (M > kMaxTokens || K > 16 * kBoxK) return false;
  if (K <= 8 * kBoxK) return M <= 8 ? f(Shape<8, 8>{}) : f(Shape<16, 8>{});
  return M <= 8 ? f(Shape<8, 16>{}) : f(Shape<16, 16>{});
}

}  // namespace

bool bf16_gemm_takes_resident(const Exec&, const Bf16Gemm& args) {
  const auto aligned = [](const Tensor& t) {
    return t.dtype == DType::bf16 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 &&
           t.stride(0) % 8 == 0;
  };
  const int64_t M = args.x.dim(0), K = args.x.dim(1);
  return K % kPanel == 0 && aligned(args.x) && aligned(args.weight) &&
         with_shape(M, K, []<class S>(S) { return true; });
}

void bf16_gemm_resident(Exec& exec, const Bf16Gemm& args) {
  const int64_t N = args.y.dim(1);
  const Arguments a{
      .x = static_cast<const __nv_bfloat16*>(args.x.data),
      .bias = args.bias.data,
      .y = args.y.data,
      .claims = exec.semaphores,
      .x_stride = args.x.stride(0),
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(args.x.dim(0)),
      .N = static_cast<int>(N),
      .K = static_cast<int>(args.x.dim(1)),
      .groups = static_cast<int>((N + kRows - 1) / kRows),
      .wide_y = args.y.dtype == DType::f32,
      .wide_bias = args.bias.defined() && args.bias.dtype == DType::f32,
  };
  with_shape(a.M, a.K, [&]<class S>(S) {
    launch<S>(exec, a, args.weight);
    return true;
  });
}

}  // namespace fathom::ops
