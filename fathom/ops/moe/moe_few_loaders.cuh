// The loaders of moe_few_sm90.cu: a warp a slot of the ring asks for weights, and puts beside
// them x, quantised, or h from the mail.
#pragma once

#include "fathom/ops/device/mail.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/moe/moe_few_sm90.cuh"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops::moe_few {

template <bool Fp8>
struct Loader {
  using Mailed = Letter<Fp8>;

  const Arguments& a;
  SharedStorage<Fp8>& s;
  const int slot;
  const int lane = static_cast<int>(threadIdx.x) % 32;

  __device__ void run() {
    Walk<Fp8> walk{a, s};
    while (!walk.ended()) {
      const Job job(walk.word);
      for (int i = first_of(walk); i < job.slots; i += kSlots) {
        wait_empty(walk.position + i);
        fill(job, i);
      }
      walk.pass(job);
      if (!walk.ended()) next(walk);
    }
    device::launch_successor();
  }

 private:
  // Of a job's slots, the first that is this warp's.
  __device__ int first_of(const Walk<Fp8>& walk) const {
    return (slot - walk.position) & (kSlots - 1);
  }
  __device__ void next(Walk<Fp8>& walk) {
    if (first_of(walk) != 0) return walk.hear();
    wait_empty(walk.position);
    walk.claim();
  }
  __device__ void wait_empty(int position) {
    s.empty[slot].wait((static_cast<uint32_t>(position) / kSlots & 1) ^ 1);
  }

  __device__ void fill(const Job& job, int i) {
    if (job.down) {
      const Strip strip(a, job, s.routes.items, i, lane / 16);
      ask_for_strips(strip);
      load_hidden(strip);
    } else {
      const int block = job.part * job.slots + i, expert = s.routes.expert[job.item];
      ask_for_unit(expert, job.place, block);
      if constexpr (Fp8) {
        quantise_rows(job.item, expert, job.place, block);
      } else {
        copy_rows(job.item, block);
      }
    }
    device::fence_shared_for_async();
    s.full[slot].arrive();
  }

  __device__ void ask(int tile, const uint8_t* from, int tiles) {
    device::bulk_load(
        s.w[slot][tile],
        from,
        static_cast<uint32_t>(tiles * kTileBytes),
        s.full[slot],
        device::kEvictFirst
    );
  }

  // Of the first product: gate and up of the first warpgroup, of the second.
  __device__ void ask_for_unit(int64_t expert, int group, int block) {
    if (lane == 0) s.full[slot].arrive_expect(kTiles * static_cast<uint32_t>(kTileBytes));
    __syncwarp();
    if (lane < kTiles) {
      const int64_t tile = expert * 4 * a.groups + group * 2 + lane / 2 + lane % 2 * 2 * a.groups;
      ask(lane, a.gate_up + (tile * a.blocks + block) * kTileBytes, 1);
    }
    __syncwarp();
  }

  // Of the second product: a strip by half of the lanes.
  __device__ void ask_for_strips(const Strip& strip) {
    const int both = strip.blocks + __shfl_xor_sync(device::kFullWarp, strip.blocks, 16);
    if (lane == 0) s.full[slot].arrive_expect(static_cast<uint32_t>(both * kTileBytes));
    __syncwarp();
    if (lane % 16 == 0 && strip.blocks > 0) {
      const int64_t tile = int64_t{s.routes.expert[strip.item]} * a.tiles + strip.tile;
      ask(lane / 8, a.down + (tile * a.down_blocks + strip.block) * kTileBytes, strip.blocks);
    }
    __syncwarp();
  }

  // 128 bytes of each row, by eight lanes.
  __device__ void copy_rows(int item, int block) {
    const int chunk = lane % 8;
    for (int row = lane / 8; row < s.routes.rows[item]; row += 4) {
      const int token = s.routes.token[item * kTokens + row];
      const uint8_t* from = a.x + token * a.x_row_bytes + block * kTileRowBytes + chunk * 16;
      put_chunk(0, row, chunk, __ldcg(reinterpret_cast<const uint4*>(from)));
    }
  }

  // 128 values of each row, by sixteen lanes.
  __device__ void quantise_rows(int item, int64_t expert, int group, int block) {
    const int part = lane % 16, rows = s.routes.rows[item];
    const int64_t line = (expert * 2 + lane % 2) * a.groups + group;
    const float w_scale = __ldg(a.gate_up_scale + line * a.blocks + block);
    for (int first = 0; first < rows; first += 2) {
      const int row = first + lane / 16;
      const bool has = row < rows;
      uint4 values = {0, 0, 0, 0};
      if (has) {
        const int token = s.routes.token[item * kTokens + row];
        const uint8_t* from = a.x + token * a.x_row_bytes + block * 256 + part * 16;
        values = __ldcg(reinterpret_cast<const uint4*>(from));
      }
      float v[8];
      device::Vec<__nv_bfloat16>::unpack(values, v);
      const float scale = group_scale<16>(v, kEps, a.ue8m0);
      const uint2 codes = quantise(v, scale);
      uint8_t* chunk = s.rows[slot][0] + row * kTileRowBytes + ((part / 2 ^ row) * 16);
      if (has) *reinterpret_cast<uint2*>(chunk + part % 2 * 8) = codes;
      if (has && part < 2) s.scale[slot][part][row] = w_scale * scale;
    }
  }

  __device__ void put_chunk(int image, int row, int chunk, uint4 v) {
    const int at = row * kTileRowBytes + ((chunk ^ row) * 16);
    *reinterpret_cast<uint4*>(s.rows[slot][image] + at) = v;
  }

  // h of a strip's rows, a block of K by eight lanes.
  __device__ void load_hidden(const Strip& strip) {
    const int image = lane / 8;
    if (image % 2 < strip.blocks) {
      const int piece = (strip.block + image % 2) / Mailed::kBlocks;
      float w_scale = 1;
      if constexpr (Fp8) {
        const int64_t line = int64_t{s.routes.expert[strip.item]} * (a.tiles / 2) + strip.tile / 2;
        w_scale = __ldg(a.down_scale + line * a.groups + piece);
      }
      for (int row = 0; row < s.routes.rows[strip.item]; ++row) {
        const int64_t pair = s.routes.pair[strip.item * kTokens + row];
        const int64_t place = (pair * a.groups + piece) * a.tiles + strip.tile;
        take_letter(a.hidden + place * Mailed::kChunks * 4, image, row, w_scale);
      }
    }
    __syncwarp();
  }

  __device__ void take_letter(uint32_t* letter, int image, int row, float w_scale) {
    constexpr int kLanes = Mailed::kLanes;
    uint32_t* chunk = letter + lane % kLanes * 4;
    const bool opens = lane % kLanes == 0;  // and has the scale
    uint32_t* scale = letter + kLanes * 4;
    uint4 v, more = {1, 1, 1, 1};
    do {
      v = device::peek_4(chunk);
      if (opens) more = device::peek_4(scale);
    } while (!device::arrived(v) || !device::arrived(more));
    put_chunk(image, row, lane % 8, {~v.x, ~v.y, ~v.z, ~v.w});
    *reinterpret_cast<uint4*>(chunk) = {0, 0, 0, 0};
    if (opens) {
      s.scale[slot][image][row] = w_scale * device::opened(more.x);
      *reinterpret_cast<uint4*>(scale) = {0, 0, 0, 0};
    }
  }
};

}  // namespace fathom::ops::moe_few
