// The device kit, wrapper by wrapper, on the GPU. Label gpu.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "fathom/ops/device/device_kit_test.cuh"
#include "fathom/ops/device/fp8.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::device {
namespace {

using cuda::Swizzle;

__global__ void flip_phases(int rounds, int* result) {
  __shared__ Barrier barrier;
  wait_for_predecessor();
  if (threadIdx.x == 0) {
    barrier.init(2);
    fence_barrier_init();
  }
  __syncthreads();
  for (int i = 0; i < rounds; ++i) {
    if (threadIdx.x == 0) barrier.arrive();
    if (threadIdx.x == 32) barrier.arrive();
    barrier.wait(static_cast<uint32_t>(i & 1));
  }
  if (threadIdx.x == 0) *result = rounds;
}

TEST_F(DeviceKit, BarrierFlipsItsPhase) {
  int* result = upload(std::vector<int>{0});
  cuda::launch(exec(), "test", {.grid = dim3(1), .threads = 64}, flip_phases, 1000, result);
  EXPECT_EQ(download(result, 1)[0], 1000);
}

// Pieces through a ring of three slots, two bulk copies to a slot, one consumer warp.
__global__ void ring_copy(const uint8_t* from, uint8_t* to, int pieces) {
  __shared__ __align__(128) uint8_t slot[3][512];
  __shared__ Barrier full[3], empty[3];
  wait_for_predecessor();
  if (threadIdx.x == 0) {
    for (int i = 0; i < 3; ++i) {
      full[i].init(1);
      empty[i].init(32);
    }
    fence_barrier_init();
  }
  __syncthreads();
  Ring<3> ring;
  if (threadIdx.x == 32) {
    for (int p = 0; p < pieces; ++p, ring.advance()) {
      empty[ring.stage].wait(ring.empty_parity());
      full[ring.stage].arrive_expect(512);
      bulk_load(slot[ring.stage], from + p * 512, 256, full[ring.stage], kEvictFirst);
      bulk_load(slot[ring.stage] + 256, from + p * 512 + 256, 256, full[ring.stage], kEvictLast);
    }
  } else if (threadIdx.x < 32) {
    for (int p = 0; p < pieces; ++p, ring.advance()) {
      full[ring.stage].wait(ring.full_parity());
      const auto v = reinterpret_cast<const uint4*>(slot[ring.stage])[threadIdx.x];
      reinterpret_cast<uint4*>(to + p * 512)[threadIdx.x] = v;
      empty[ring.stage].arrive();
    }
  }
}

TEST_F(DeviceKit, RingOfBulkCopiesKeepsOrder) {
  constexpr int kPieces = 100;
  std::vector<uint8_t> values(kPieces * 512);
  std::mt19937 random(1);
  for (uint8_t& v : values) v = static_cast<uint8_t>(random());
  const uint8_t* from = upload(values);
  uint8_t* to = upload(std::vector<uint8_t>(values.size()));
  cuda::launch(exec(), "test", {.grid = dim3(1), .threads = 64}, ring_copy, from, to, kPieces);
  EXPECT_EQ(download(to, values.size()), values);
}

__global__ void load_box(
    const __grid_constant__ TensorMap map, int column, int row, int bytes, uint8_t* out
) {
  __shared__ __align__(1024) uint8_t image[8192];
  __shared__ Barrier full;
  wait_for_predecessor();
  if (threadIdx.x == 0) {
    full.init(1);
    fence_barrier_init();
    full.arrive_expect(static_cast<uint32_t>(bytes));
    box_load(image, map, column, row, full, kEvictNormal);
  }
  __syncthreads();
  full.wait(0);
  for (int i = static_cast<int>(threadIdx.x); i < bytes; i += 32) out[i] = image[i];
}

TEST_F(DeviceKit, BoxesAreSwizzledAndZeroOutside) {
  constexpr int kRows = 20, kColumns = 256, kBoxRows = 16;
  std::vector<uint8_t> values(kRows * kColumns);
  std::mt19937 random(2);
  for (uint8_t& v : values) v = static_cast<uint8_t>(1 + random() % 255);
  const uint8_t* from = upload(values);
  const std::pair<Swizzle, int> kKinds[] = {
      {Swizzle::none, 128},
      {Swizzle::bytes32, 32},
      {Swizzle::bytes64, 64},
      {Swizzle::bytes128, 128}};
  for (const auto& [swizzle, width] : kKinds) {
    const auto map =
        cuda::make_matrix_map(from, DType::u8, kRows, kColumns, kColumns, kBoxRows, width, swizzle);
    uint8_t* out = upload(std::vector<uint8_t>(8192));
    const int bytes = kBoxRows * width;
    cuda::launch(
        exec(), "test", {.grid = dim3(1), .threads = 32}, load_box, map, 128, 8, bytes, out
    );
    const auto got = download(out, static_cast<size_t>(bytes));
    const int mask = swizzle == Swizzle::none ? 0 : width / 16 - 1;
    for (int r = 0; r < kBoxRows; ++r) {
      for (int c = 0; c < width; ++c) {
        const int line = (r * width + c) / 128;  // swizzling goes by the address
        const int at = (r * width + c) ^ (swizzle == Swizzle::none ? 0 : (line & mask) * 16);
        const int wanted =
            8 + r < kRows ? values[static_cast<size_t>((8 + r) * kColumns + 128 + c)] : 0;
        ASSERT_EQ(got[static_cast<size_t>(at)], wanted) << width << " " << r << " " << c;
      }
    }
  }
}

// One 64 x N product over 128 bytes of K from row-major operands.
template <int N, bool Fp8>
__global__ void product(
    const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* out
) {
  __shared__ __align__(1024) uint8_t a_image[8192];
  __shared__ __align__(1024) uint8_t b_image[N * 128];
  __shared__ Barrier full;
  wait_for_predecessor();
  if (threadIdx.x == 0) {
    full.init(1);
    fence_barrier_init();
    full.arrive_expect(8192 + N * 128);
    box_load(a_image, a, 0, 0, full, kEvictNormal);
    box_load(b_image, b, 0, 0, full, kEvictNormal);
  }
  __syncthreads();
  full.wait(0);
  float d[N / 2];
  const uint64_t a_descriptor = operand_descriptor(a_image);
  const uint64_t b_descriptor = operand_descriptor(b_image);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const auto step = static_cast<uint64_t>(2 * k);
    if constexpr (Fp8) {
      mma_e4m3(d, a_descriptor + step, b_descriptor + step, k > 0);
    } else {
      mma_bf16(d, a_descriptor + step, b_descriptor + step, k > 0);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
  pin(d);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const int row = 16 * warp + lane / 4 + i / 2 % 2 * 8;
    const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    out[row * N + column] = d[i];
  }
}

class DeviceKitMma : public DeviceKit {
 protected:
  template <int N, bool Fp8>
  void check_product() {
    constexpr int kDepth = Fp8 ? 128 : 64;
    std::mt19937 random(N);
    std::uniform_int_distribution<int> small(-4, 4);  // exact in every format and sum
    std::vector<float> a(64 * kDepth), b(N * kDepth);
    for (float& v : a) v = static_cast<float>(small(random));
    for (float& v : b) v = static_cast<float>(small(random));
    const DType dtype = Fp8 ? DType::u8 : DType::bf16;
    const auto encode = [&](const std::vector<float>& values) {
      std::vector<uint8_t> bytes;
      for (const float v : values) {
        if (Fp8) {
          bytes.push_back(float_to_f8e4m3(v));
        } else {
          const uint16_t bits = float_to_bf16(v);
          bytes.push_back(static_cast<uint8_t>(bits & 255));
          bytes.push_back(static_cast<uint8_t>(bits >> 8));
        }
      }
      return upload(bytes);
    };
    const auto map = [&](const uint8_t* data, int rows) {
      return cuda::make_matrix_map(data, dtype, rows, kDepth, 128, rows, kDepth, Swizzle::bytes128);
    };
    float* out = upload(std::vector<float>(64 * N, -1.0f));
    const auto a_map = map(encode(a), 64);
    const auto b_map = map(encode(b), N);
    cuda::launch(
        exec(), "test", {.grid = dim3(1), .threads = 128}, product<N, Fp8>, a_map, b_map, out
    );
    const auto got = download(out, 64 * N);
    for (int m = 0; m < 64; ++m) {
      for (int n = 0; n < N; ++n) {
        float wanted = 0;
        for (int k = 0; k < kDepth; ++k)
          wanted += a[static_cast<size_t>(m * kDepth + k)] * b[static_cast<size_t>(n * kDepth + k)];
        ASSERT_EQ(got[static_cast<size_t>(m * N + n)], wanted)
            << "N " << N << " at " << m << " " << n;
      }
    }
  }
};

TEST_F(DeviceKitMma, Fp8ProductsOfEveryWidth) {
  check_product<8, true>();
  check_product<16, true>();
  check_product<32, true>();
  check_product<64, true>();
  check_product<128, true>();
}

TEST_F(DeviceKitMma, Bf16ProductsOfEveryWidth) {
  check_product<8, false>();
  check_product<16, false>();
  check_product<32, false>();
  check_product<64, false>();
  check_product<128, false>();
}

__global__ void convert_fp8(const float* in, uint16_t* packed, float* unpacked) {
  wait_for_predecessor();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  packed[i] = pack_e4m3(in[2 * i], in[2 * i + 1]);
  const float2 codes = unpack_e4m3(static_cast<uint16_t>((2 * i & 255) | (2 * i + 1 & 255) << 8));
  unpacked[2 * i] = codes.x;
  unpacked[2 * i + 1] = codes.y;
}

TEST_F(DeviceKit, Fp8ConversionsEqualTheHosts) {
  std::vector<float> values(1024);
  std::mt19937 random(3);
  std::normal_distribution<float> law(0, 100);
  for (float& v : values) v = law(random);
  values[0] = 1e9f;
  values[1] = -INFINITY;
  values[2] = 0x1p-9f;
  values[3] = NAN;
  uint16_t* packed = upload(std::vector<uint16_t>(512));
  float* unpacked = upload(std::vector<float>(1024));
  const float* in = upload(values);
  cuda::launch(
      exec(), "test", {.grid = dim3(4), .threads = 128}, convert_fp8, in, packed, unpacked
  );
  const auto codes = download(packed, 512);
  const auto floats = download(unpacked, 1024);
  for (size_t i = 0; i < 1024; ++i) {
    const int got = codes[i / 2] >> (8 * (i % 2)) & 255;
    const int wanted = float_to_f8e4m3(values[i]);
    ASSERT_EQ(got & (i == 3 ? 0x7f : 0xff), wanted & (i == 3 ? 0x7f : 0xff)) << values[i];
    const float code = f8e4m3_to_float(static_cast<uint8_t>(i));
    ASSERT_TRUE(floats[i] == code || (std::isnan(floats[i]) && std::isnan(code))) << i;
  }
}

// Thread i: codes 4 i to 4 i + 3, times each factor.
__global__ void scale_fp8(const float* factors, int count, uint2* out) {
  wait_for_predecessor();
  const uint32_t first = threadIdx.x * 4;
  const uint32_t codes = first | (first + 1) << 8 | (first + 2) << 16 | (first + 3) << 24;
  for (int i = 0; i < count; ++i)
    out[i * 64 + static_cast<int>(threadIdx.x)] = scaled_f16(codes, __float2half2_rn(factors[i]));
}

TEST_F(DeviceKit, ScaledFp8IsRoundedOnce) {
  const std::vector<float> factors{1.0f, 0.0109f, 3.3e-6f, 72.7f};
  const float* in = upload(factors);
  uint2* out = upload(std::vector<uint2>(64 * factors.size()));
  const int count = static_cast<int>(factors.size());
  cuda::launch(exec(), "test", {.grid = dim3(1), .threads = 64}, scale_fp8, in, count, out);
  const auto words = download(reinterpret_cast<const uint16_t*>(out), 256 * factors.size());
  for (size_t i = 0; i < words.size(); ++i) {
    const float code = f8e4m3_to_float(static_cast<uint8_t>(i % 256));
    if (std::isnan(code)) continue;
    const double wanted =
        static_cast<double>(code) * __half2float(__float2half_rn(factors[i / 256]));
    __half_raw raw;
    raw.x = words[i];
    const double got = __half2float(__half(raw));
    const double ulp = wanted == 0 ? 0 : std::ldexp(1.0, std::max(std::ilogb(wanted), -14) - 10);
    ASSERT_LE(std::abs(got - wanted), ulp / 2) << i;
  }
}

__global__ void reduce_all(const float* in, float* sum, float* largest) {
  __shared__ float scratch[4];
  wait_for_predecessor();
  const float v = in[threadIdx.x];
  const float total = block_sum<4>(v, scratch);
  if (threadIdx.x == 7) *sum = total;
  largest[threadIdx.x] = warp_max<16>(v);
}

TEST_F(DeviceKit, Reductions) {
  std::vector<float> values(128);
  for (size_t i = 0; i < 128; ++i) values[i] = static_cast<float>((i * 37) % 101) - 50;
  float* sum = upload(std::vector<float>{0});
  float* largest = upload(std::vector<float>(128));
  const float* in = upload(values);
  cuda::launch(exec(), "test", {.grid = dim3(1), .threads = 128}, reduce_all, in, sum, largest);
  float wanted = 0;
  for (const float v : values) wanted += v;
  EXPECT_EQ(download(sum, 1)[0], wanted);
  const auto got = download(largest, 128);
  for (size_t i = 0; i < 128; ++i) {
    const auto group = values.begin() + static_cast<std::ptrdiff_t>(i / 16 * 16);
    EXPECT_EQ(got[i], *std::max_element(group, group + 16));
  }
}

// Every CTA adds to a word of its own, arrives, and the last one sums them up.
__global__ void last_arriver(uint32_t* counter, uint32_t* words, uint32_t* total) {
  __shared__ bool last;
  wait_for_predecessor();
  if (threadIdx.x < 32) words[blockIdx.x * 32 + threadIdx.x] = blockIdx.x + threadIdx.x;
  __syncthreads();
  if (threadIdx.x == 0) {
    last = arrive_counter(counter) == gridDim.x - 1;
    if (last) *counter = 0;
  }
  __syncthreads();
  if (!last || threadIdx.x != 0) return;
  uint32_t sum = 0;
  for (unsigned i = 0; i < gridDim.x * 32; ++i) sum += __ldcg(words + i);
  *total = sum;
}

TEST_F(DeviceKit, LastArriverSeesEveryWrite) {
  constexpr uint32_t kCtas = 500;
  uint32_t* counter = upload(std::vector<uint32_t>{0});
  uint32_t* words = upload(std::vector<uint32_t>(kCtas * 32));
  uint32_t* total = upload(std::vector<uint32_t>{0});
  for (int round = 0; round < 20; ++round) {
    cuda::launch(
        exec(), "test", {.grid = dim3(kCtas), .threads = 64}, last_arriver, counter, words, total
    );
    EXPECT_EQ(download(total, 1)[0], kCtas * (kCtas - 1) / 2 * 32 + kCtas * 496);
    EXPECT_EQ(download(counter, 1)[0], 0u);
  }
}

// Each CTA of a pair loads one half of the tile for both.
__global__ void slow_writer(int* value) {
  launch_successor();
  wait_for_predecessor();
  for (int i = 0; i < 50; ++i) __nanosleep(1000);
  *value = 42;
}
__global__ void reader(const int* value, int* seen) {
  wait_for_predecessor();
  *seen = *value;
}

TEST_F(DeviceKit, WaitSeesWhatASlowPredecessorWrites) {
  int* value = upload(std::vector<int>{1});
  int* seen = upload(std::vector<int>{0});
  cuda::launch(exec(), "test", {.grid = dim3(1), .threads = 1}, slow_writer, value);
  cuda::launch(exec(), "test", {.grid = dim3(1), .threads = 1}, reader, value, seen);
  EXPECT_EQ(download(seen, 1)[0], 42);
}

TEST_F(DeviceKit, GraphReplaysWhatWasCaptured) {
  int* value = upload(std::vector<int>{1});
  int* seen = upload(std::vector<int>{0});
  const cuda::Graph graph = cuda::Graph::capture(device_.stream(), [&] {
    cuda::launch(exec(), "test", {.grid = dim3(1), .threads = 1}, slow_writer, value);
    cuda::launch(exec(), "test", {.grid = dim3(1), .threads = 1}, reader, value, seen);
  });
  EXPECT_EQ(graph.nodes(), 2);
  EXPECT_EQ(download(seen, 1)[0], 0);
  graph.launch(device_.stream());
  EXPECT_EQ(download(seen, 1)[0], 42);
}

}  // namespace
}  // namespace fathom::device
