// The device kit's steps of clusters, and quotients, on the GPU. Label gpu.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "fathom/ops/device/cluster.cuh"
#include "fathom/ops/device/device_kit_test.cuh"
#include "fathom/ops/device/divisor.cuh"
#include "fathom/ops/device/tma.cuh"

namespace fathom::device {
namespace {

using cuda::Swizzle;

__global__ void share_tile(const __grid_constant__ TensorMap map, uint8_t* out) {
  __shared__ __align__(1024) uint8_t image[2][1024];
  __shared__ Barrier full;
  wait_for_predecessor();
  const uint32_t rank = cluster_rank();
  if (threadIdx.x == 0) {
    full.init(1);
    fence_barrier_init();
    full.arrive_expect(2048);
  }
  cluster_barrier();
  if (threadIdx.x == 0) {
    const int row = static_cast<int>(rank) * 8;
    box_load_multicast(image[rank], map, 0, row, full, 3, kEvictNormal);
  }
  full.wait(0);
  for (int i = static_cast<int>(threadIdx.x); i < 2048; i += 32)
    out[rank * 2048 + static_cast<unsigned>(i)] = image[0][i];
  cluster_barrier();
}

TEST_F(DeviceKit, MulticastReachesBothCtas) {
  std::vector<uint8_t> values(16 * 128);
  std::mt19937 random(4);
  for (uint8_t& v : values) v = static_cast<uint8_t>(random());
  const auto map =
      cuda::make_matrix_map(upload(values), DType::u8, 16, 128, 128, 8, 128, Swizzle::none);
  uint8_t* out = upload(std::vector<uint8_t>(4096));
  cuda::launch(
      exec(), "test", {.grid = dim3(2), .threads = 32, .cluster = 2}, share_tile, map, out
  );
  const auto got = download(out, 4096);
  EXPECT_TRUE(std::equal(values.begin(), values.end(), got.begin()));
  EXPECT_TRUE(std::equal(values.begin(), values.end(), got.begin() + 2048));
}

// Each round every CTA shows what all its threads wrote, and adds up what the others did.
__global__ void show_and_add(int rounds, int* sums) {
  __shared__ int value[64];
  __shared__ Barrier shown, seen;
  wait_for_predecessor();
  const auto thread = static_cast<int>(threadIdx.x);
  const uint32_t rank = cluster_rank(), ranks = gridDim.x;
  if (thread == 0) {
    shown.init(ranks);
    seen.init(ranks);
    fence_barrier_init();
  }
  __syncthreads();
  cluster_arrive();
  cluster_wait();
  for (int round = 0; round < rounds; ++round) {
    const auto parity = static_cast<uint32_t>(round % 2);
    wait_shown(seen, parity ^ 1);  // the first time at once
    value[thread] = (round + 1) * 1000 + static_cast<int>(rank) * 64 + thread;
    __syncthreads();
    if (static_cast<uint32_t>(thread) < ranks) show_shared_at(shown, threadIdx.x);
    wait_shown(shown, parity);
    int sum = 0;
    for (uint32_t r = 0; r < ranks; ++r) sum += *peer_object(&value[63 - thread], r);
    sums[(round * static_cast<int>(ranks) + static_cast<int>(rank)) * 64 + thread] = sum;
    __syncthreads();
    if (static_cast<uint32_t>(thread) < ranks) seen.let_go_at(threadIdx.x);
  }
  cluster_arrive();
  cluster_wait();
}

TEST_F(DeviceKit, ClustersSeeWhatIsShown) {
  constexpr int kRounds = 100, kRanks = 4;
  int* sums = upload(std::vector<int>(kRounds * kRanks * 64));
  cuda::launch(
      exec(),
      "test",
      {.grid = dim3(kRanks), .threads = 64, .cluster = kRanks},
      show_and_add,
      kRounds,
      sums
  );
  const std::vector<int> got = download(sums, kRounds * kRanks * 64);
  for (int i = 0; i < kRounds * kRanks * 64; ++i) {
    const int round = i / (kRanks * 64), of_ranks = 64 * kRanks * (kRanks - 1) / 2;
    ASSERT_EQ(got[static_cast<size_t>(i)], kRanks * ((round + 1) * 1000 + 63 - i % 64) + of_ranks);
  }
}

// Each round every CTA sends every other one a value of each thread, once that one has read what
// came in the round before.
__global__ void send_and_add(int rounds, float* sums) {
  __shared__ float4 inbox[4][32];
  __shared__ Barrier come, room;
  wait_for_predecessor();
  const auto thread = static_cast<int>(threadIdx.x);
  const uint32_t rank = cluster_rank(), ranks = gridDim.x;
  if (thread == 0) {
    come.init(1);
    room.init(ranks);
    fence_barrier_init();
  }
  __syncthreads();
  cluster_arrive();
  cluster_wait();
  for (int round = 0; round < rounds; ++round) {
    const auto parity = static_cast<uint32_t>(round % 2);
    if (thread == 0) come.arrive_expect(ranks * static_cast<uint32_t>(sizeof(inbox[0])));
    room.wait(parity ^ 1);  // the first time at once
    const auto v = static_cast<float>(round * 1000 + static_cast<int>(rank) * 32 + thread);
    for (uint32_t r = 0; r < ranks; ++r) {
      send_async(
          peer_address(shared_address(&inbox[rank][thread]), r),
          {v, v + 1, v + 2, v + 3},
          peer_address(shared_address(&come), r)
      );
    }
    come.wait_cluster(parity);
    float sum = 0;
    for (uint32_t r = 0; r < ranks; ++r) {
      const float4 of = inbox[r][31 - thread];
      sum += of.x + of.y + of.z + of.w;
    }
    sums[(round * static_cast<int>(ranks) + static_cast<int>(rank)) * 32 + thread] = sum;
    __syncthreads();
    if (static_cast<uint32_t>(thread) < ranks) room.let_go_at(threadIdx.x);
  }
  cluster_arrive();
  cluster_wait();
}

TEST_F(DeviceKit, ClustersCountWhatIsSent) {
  constexpr int kRounds = 100, kRanks = 4;
  float* sums = upload(std::vector<float>(kRounds * kRanks * 32));
  cuda::launch(
      exec(),
      "test",
      {.grid = dim3(kRanks), .threads = 32, .cluster = kRanks},
      send_and_add,
      kRounds,
      sums
  );
  const std::vector<float> got = download(sums, kRounds * kRanks * 32);
  for (int i = 0; i < kRounds * kRanks * 32; ++i) {
    const int round = i / (kRanks * 32), of_ranks = 32 * kRanks * (kRanks - 1) / 2;
    const int wanted = 4 * (kRanks * (round * 1000 + 31 - i % 32) + of_ranks) + 6 * kRanks;
    ASSERT_EQ(got[static_cast<size_t>(i)], static_cast<float>(wanted));
  }
}

__global__ void divide(Divisor given, int count, int* wrong) {
  wait_for_predecessor();
  const Divisor found = Divisor::found(given.by);
  const auto first = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  for (int n = first; n < count; n += static_cast<int>(gridDim.x * blockDim.x)) {
    if (given.quotient(n) != n / given.by || found.quotient(n) != n / given.by) atomicAdd(wrong, 1);
  }
}

TEST_F(DeviceKit, QuotientsAreExact) {
  int* wrong = upload(std::vector<int>{0});
  for (const int by : {1, 2, 3, 7, 8, 11, 56, 63, 64, 65, 131, 132, 144, 1000, 4095, 1 << 19})
    cuda::launch(
        exec(), "test", {.grid = dim3(64), .threads = 256}, divide, Divisor::of(by), 1 << 20, wrong
    );
  EXPECT_EQ(download(wrong, 1)[0], 0);
}

}  // namespace
}  // namespace fathom::device
