// The consumers of moe_few_sm90.cu: both products. Sums go to the finishers by mail.
#pragma once

#include "fathom/ops/device/mail.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/moe/moe_few_sm90.cuh"
#include "fathom/ops/moe/moe_products.cuh"

namespace fathom::ops::moe_few {

template <bool Fp8>
struct Consumer {
  const Arguments& a;
  SharedStorage<Fp8>& s;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int half = static_cast<int>(threadIdx.x) / 128;  // which warpgroup
  // Of the sums that a thread holds: 64 rows of weights down, an item's rows across.
  const int line = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
  const int column = lane % 4 * 2;
  device::Ring<kSlots> ring = {};

  __device__ void run() {
    Walk<Fp8> walk{a, s};
    while (!walk.ended()) {
      const Job job(walk.word);
      if (!job.down) {
        multiply_units(job);
      } else if (a.home) {
        multiply_own(job);
      } else {
        multiply_tiles(job);
      }
      walk.pass(job);
      if (!walk.ended()) walk.hear();
    }
  }

 private:
  template <class F>
  __device__ void for_each_slot(const Job& job, F f) {
#pragma unroll 1
    for (int i = 0; i < job.slots; ++i) {
      s.full[ring.stage].wait(ring.full_parity());
      f(i, ring.stage);
      __syncwarp();
      if (lane == 0) s.empty[ring.stage].arrive();
      ring.advance();
    }
  }

  // f(place among the routes, of the fragment's two columns which) for the columns that are rows of
  // the item.
  template <class F>
  __device__ void for_each_row(int item, F f) const {
    const int rows = s.routes.rows[item];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (column + i < rows) f(item * kTokens + column + i, i);
    }
  }

  __device__ void add(float (&sum)[4], const float (&products)[4], int slot, int tile) const {
    const float2 scale = *reinterpret_cast<const float2*>(&s.scale[slot][tile][column]);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = fmaf(i % 2 == 0 ? scale.x : scale.y, products[i], sum[i]);
  }

  __device__ void multiply_units(const Job& job) {
    float sum[2][4] = {};
    for_each_slot(job, [&](int, int slot) { multiply_unit(sum, slot); });
    const int channel = half * 64 + line;
    for_each_row(job.item, [&](int row, int i) {
#pragma unroll
      for (int product = 0; product < 2; ++product) {
        const int place =
            ((s.routes.pair[row] * a.groups + job.place) * a.splits + job.part) * 2 + product;
        uint32_t* to = a.parts + place * kChannels + channel;
        device::send(to, sum[product][i]);
        device::send(to + 8, sum[product][i + 2]);
      }
    });
  }

  // A warpgroup's tiles of gate and of up, times the rows of x.
  __device__ void multiply_unit(float (&sum)[2][4], int slot) {
    const uint64_t rows = device::operand_descriptor(s.rows[slot][0]);
    const uint64_t gate = device::operand_descriptor(s.w[slot][2 * half]);
    const uint64_t up = device::operand_descriptor(s.w[slot][2 * half + 1]);
    if constexpr (!Fp8) {
      device::wgmma_fence();
      mma_bf16_tile(sum[0], gate, rows, true);
      mma_bf16_tile(sum[1], up, rows, true);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(sum[0]);
      device::pin(sum[1]);
    } else {
      float products[2][4];
      device::wgmma_fence();
      device::mma_e4m3_tile(products[0], gate, rows);
      device::mma_e4m3_tile(products[1], up, rows);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(products[0]);
      device::pin(products[1]);
      add(sum[0], products[0], slot, 0);
      add(sum[1], products[1], slot, 1);
    }
  }

  // A warpgroup has half of each slot's tiles, and sums of its own.
  __device__ void multiply_tiles(const Job& job) {
    float sum[4] = {};
    for_each_slot(job, [&](int i, int slot) {
      multiply_strip(sum, slot, Strip(a, job, s.routes.items, i, half).blocks);
    });
    const int tile = job.place + (a.wide ? half : 0), subs = a.by_subs.by;
    const int sub = a.wide ? 0 : job.part * 2 + half;
    for_each_row(job.item, [&](int row, int i) {
      uint32_t* to =
          a.sums + ((s.routes.pair[row] * a.tiles + tile) * subs + sub) * kOutputs + line;
      device::send(to, sum[i]);
      device::send(to + 8, sum[i + 2]);
    });
  }

  // The same of all experts of this CTA's own tile, for its own finishers.
  __device__ void multiply_own(const Job& job) {
    for_each_slot(job, [&](int i, int slot) {
      const Strip strip(a, job, s.routes.items, i, half);
      float sum[4] = {};
      multiply_strip(sum, slot, strip.blocks);
      if (strip.blocks == 0) return;
      for_each_row(strip.item, [&](int row, int c) {
        float* total = s.total[half][s.routes.token[row]];
        total[line] += sum[c];
        total[line + 8] += sum[c + 2];
      });
    });
  }

  __device__ void multiply_strip(float (&sum)[4], int slot, int blocks) {
    float products[2][4];
    device::wgmma_fence();
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const uint64_t w = device::operand_descriptor(s.w[slot][2 * half + b]);
      const uint64_t h = device::operand_descriptor(s.rows[slot][2 * half + b]);
      if constexpr (Fp8) {
        device::mma_e4m3_tile(products[b], w, h);
      } else {
        mma_bf16_tile(products[b], w, h, false);
      }
    }
    device::wgmma_commit();
    device::wgmma_wait<0>();
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      device::pin(products[b]);
      if (b < blocks) add(sum, products[b], slot, 2 * half + (Fp8 ? b : 0));
    }
  }
};

}  // namespace fathom::ops::moe_few
