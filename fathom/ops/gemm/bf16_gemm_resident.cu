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
constexpr int64_t kMostK = 16 * kBoxK;
// Of fewer the row few_sm90 makes sooner.
constexpr int64_t kLeastOutputs = 24576;
constexpr int kSums = 4;            // of the same outputs, of a warp
constexpr int kDepth = 3;           // boxes of a warp on their way
constexpr int kDealt = kDepth + 1;  // groups that a CTA knows when it asks for their boxes

struct Arguments {
  const __nv_bfloat16* x;
  const void* bias;
  void* y;
  uint32_t* claims;  // zero
  int64_t x_stride, y_stride;
  int M, N;
  int panels;  // of K
  int groups;
  bool wide_y, wide_bias;
};

// Each warp takes one box of a group.
template <int Tokens, int Warps>
struct Shape {
  static constexpr int kTokens = Tokens, kWarps = Warps;
  static constexpr int kHalves = Tokens / 8;
  static constexpr int kOutputs = Tokens * kRows;  // of a group, one a thread
  // Eight warps take half an SM, so that the successor's queues fill beside this one.
  static constexpr int kResident = Warps > 8 ? 1 : 2;
  // Boxes of a warp that are asked for before the tokens: behind more than 128 KB an SM these come
  // late.
  static constexpr int kAhead = Warps > 8 ? 2 : kDepth;
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
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  const int lane = static_cast<int>(threadIdx.x % 32);
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

  // Where this lane's pieces of tokens lie: the last token for those beyond it, whose sums are not
  // stored, so that nothing stands between one load and the next. With a choice each they went to
  // the L2 three or four times in turn.
  __device__ const uint4* pieces(int half) const {
    const int64_t row = min(half * 8 + lane / 4, a.M - 1) * a.x_stride;
    return reinterpret_cast<const uint4*>(a.x + row + warp * kBoxK) + lane % 4;
  }
  // A successor that fits beside this CTA starts behind these loads: its weights would stand before
  // them. In each branch, since where the branches meet again the loads are waited for (2048 ->
  // 2048, 8 tokens: 5.3 us in place of 3.8).
  __device__ void fetch(const uint4* const (&pieces)[S::kHalves]) {
    constexpr int kPieces = kPanel / 8;  // of a row of a panel
    const int panels = a.panels - warp * kPanels;
    if (panels >= kPanels) [[likely]] {
#pragma unroll
      for (int p = 0; p < kPanels; ++p) {
#pragma unroll
        for (int i = 0; i < 2 * S::kHalves; ++i)
          x[p][i % 2][i / 2] = __ldcg(pieces[i / 2] + p * kPieces + i % 2 * 4);
      }
      if constexpr (S::kResident > 1) device::launch_successor();
    } else {
      if constexpr (S::kResident > 1) device::launch_successor();
#pragma unroll
      for (int p = 0; p < kPanels; ++p) {
#pragma unroll
        for (int i = 0; i < 2 * S::kHalves; ++i) {
          x[p][i % 2][i / 2] =
              p < panels ? __ldcg(pieces[i / 2] + p * kPieces + i % 2 * 4) : uint4{0, 0, 0, 0};
        }
      }
    }
  }

  // Four sums, since a product waits 33 cycles for the one before it in the same sum.
  __device__ void multiply(float (&sum)[kSums][4], const uint8_t* box) const {
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
        device::mma_bf16_sync(sum[2 * i], low.x, high.x, low.y, high.y, v.x, v.y);
        device::mma_bf16_sync(sum[2 * i + 1], low.z, high.z, low.w, high.w, v.z, v.w);
      }
    }
  }

  __device__ void leave(const float (&sum)[kSums][4], int turn) {
#pragma unroll
    for (int h = 0; h < S::kHalves; ++h) {
      float* out = s.part[turn][warp][h * 8 + lane / 4] + lane % 4 * 2;
      const auto all = [&](int i) { return (sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]); };
      *reinterpret_cast<float2*>(out) = {all(2 * h), all(2 * h + 1)};
    }
  }

  // What the warps left of output i of a group.
  __device__ float sum_of(int turn, int i) const {
    float v = 0;
#pragma unroll
    for (int k = 0; k < S::kWarps; ++k) v += s.part[turn][k][i / kRows][i % kRows];
    return v;
  }

  __device__ void put(int group, int i, float v) const {
    const int token = i / kRows, n = group * kRows + i % kRows;
    if (token >= a.M || n >= a.N) return;
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
    for (int i = 0; i < kDealt; ++i) known[i] = static_cast<int>(blockIdx.x + i * gridDim.x);
#pragma unroll
    for (int i = 0; i < S::kAhead; ++i) copy(known[i], i);
  }

  __device__ void run() {
    begin();
    const uint4* from[S::kHalves];
#pragma unroll
    for (int h = 0; h < S::kHalves; ++h) from[h] = pieces(h);
    if constexpr (S::kResident == 1) device::launch_successor();
    device::wait_for_predecessor();
    fetch(from);
#pragma unroll
    for (int i = S::kAhead; i < kDepth; ++i) copy(known[i], i);
    RowClaims claims(a.groups, kDealt, static_cast<int>(gridDim.x));
    const int output = static_cast<int>(threadIdx.x);
    if (threadIdx.x == 0) claims.ask(a.claims);
    device::Ring<kDepth> ring;
    for (int turn = 0; known[0] < a.groups; turn ^= 1) {
      float sum[kSums][4] = {};
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
      if (output < S::kOutputs) put(known[0], output, sum_of(turn, output));
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
  const int processors = cuda::multiprocessors(exec.device.index);
  const auto panels = static_cast<uint64_t>(a.panels), N = static_cast<uint64_t>(a.N);
  cuda::launch(
      exec,
      "bf16_gemm",
      {.grid = dim3(static_cast<unsigned>(std::min(a.groups, processors))),
       .threads = S::kWarps * 32,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<S>))},
      resident<S>,
      a,
      cuda::make_tensor_map(
          {.data = weight.data,
           .dtype = DType::bf16,
           .rank = 3,
           .dims = {kPanel, panels, N},
           .stride_bytes = {kPanel * 2, static_cast<uint64_t>(weight.stride(0)) * 2},
           .box = {kPanel, kPanels, kRows}}
      )
  );
}

// Calls f with the shape that holds M tokens of K.
template <class F>
void with_shape(int64_t M, int64_t K, F f) {
  const bool few = M <= 8;
  if (K <= 8 * kBoxK) return few ? f(Shape<8, 8>{}) : f(Shape<16, 8>{});
  few ? f(Shape<8, 16>{}) : f(Shape<16, 16>{});
}

}  // namespace

bool bf16_gemm_takes_resident(const Exec&, const Bf16Gemm& args) {
  return args.x.dim(0) <= kMaxTokens && args.x.dim(1) <= kMostK && args.x.dim(1) % kPanel == 0 &&
         args.y.dim(1) >= kLeastOutputs && bf16_gemm_in_boxes(args);
}

void bf16_gemm_resident(Exec& exec, const Bf16Gemm& args) {
  const int64_t N = args.y.dim(1), K = args.x.dim(1);
  const Arguments a{
      .x = static_cast<const __nv_bfloat16*>(args.x.data),
      .bias = args.bias.data,
      .y = args.y.data,
      .claims = exec.semaphores,
      .x_stride = args.x.stride(0),
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(args.x.dim(0)),
      .N = static_cast<int>(N),
      .panels = static_cast<int>(K / kPanel),
      .groups = static_cast<int>((N + kRows - 1) / kRows),
      .wide_y = args.y.dtype == DType::f32,
      .wide_bias = args.bias.defined() && args.bias.dtype == DType::f32,
  };
  with_shape(a.M, K, [&]<class S>(S) { launch<S>(exec, a, args.weight); });
}

}  // namespace fathom::ops
