// The loaders of moe_few_fused_sm90.cu: a warp a slot of the ring asks for weights, and puts beside
// them x, quantised, or h from the mail.
#pragma once

#include "fathom/ops/device/mail.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/moe/moe_fused_sm90.cuh"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops::moe_fused {

template <bool Fp8>
struct Loader {
  using Mailed = Letter<Fp8>;

  const Arguments& a;
  SharedStorage<Fp8>& s;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int T = a.choice.T;
  Work work = {};

  __device__ void run(int slot) {
    const SlotPlace place(a.choice, a.by_k);
    device::wait_for_predecessor();
    const SlotRoute route(a.choice, place);
    if ((route.opens >> lane & 1) != 0) s.expert[slot][route.rank] = route.id;
    __syncwarp();
    work = Work::template of<Fp8>(a, __popc(route.opens));
    uint32_t parity = 1;
    const int jobs = work.jobs();
    if (slot >= jobs) device::launch_successor();
#pragma unroll 1
    for (int job = slot; job < jobs; job += kSlots, parity ^= 1) {
      s.empty[slot].wait(parity);
      ask_for(slot, job);
      if (job + kSlots >= jobs) device::launch_successor();
      if (job < work.units()) {
        load_rows(slot, work.begin + job);
      } else {
        load_hidden(slot, first_piece(job));
      }
      device::fence_shared_for_async();
      s.full[slot].arrive();
    }
  }

 private:
  __device__ int first_piece(int job) const {
    return work.first + (job - work.units()) * Mailed::kPieces;
  }

  // A run of weights that a lane asks for, if it has bytes.
  struct Copy {
    const uint8_t* from;
    uint32_t bytes;
  };

  // Of the first product: gate and up of the first warpgroup, of the second.
  __device__ Copy copy_of_unit(int slot, int unit) const {
    const int piece = a.by_blocks.quotient(unit), block = unit - piece * a.blocks;
    const int item = a.by_groups.quotient(piece), group = piece - item * a.groups, i = lane / 8;
    const int64_t expert = s.expert[slot][item];
    const int64_t tile = expert * 4 * a.groups + group * 2 + i / 2 + i % 2 * 2 * a.groups;
    const uint32_t bytes = lane % 8 == 0 ? static_cast<uint32_t>(kTileBytes) : 0;
    return {a.gate_up + (tile * a.blocks + block) * kTileBytes, bytes};
  }
  // Of the second product: a piece's tiles.
  __device__ Copy copy_of_piece(int slot, int piece) const {
    if (lane % Mailed::kLanes != 0 || piece >= work.last) return {};
    const int item = a.by_groups.quotient(piece), group = piece - item * a.groups;
    const int64_t expert = s.expert[slot][item];
    const int64_t part = (expert * a.tiles + work.tile) * a.groups + group;
    return {a.down + part * Mailed::kWeights, Mailed::kWeights};
  }
  __device__ Copy copy_of(int slot, int job) const {
    return job < work.units() ? copy_of_unit(slot, work.begin + job)
                              : copy_of_piece(slot, first_piece(job) + lane / Mailed::kLanes);
  }

  __device__ void ask_for(int slot, int job) {
    const Copy copy = copy_of(slot, job);
    const auto pieces = static_cast<uint32_t>(min(Mailed::kPieces, work.last - first_piece(job)));
    if (lane == 0)
      s.full[slot].arrive_expect(
          job < work.units() ? kTiles * static_cast<uint32_t>(kTileBytes)
                             : pieces * Mailed::kWeights
      );
    if (copy.bytes > 0)
      device::bulk_load(
          s.w[slot][lane / 8], copy.from, copy.bytes, s.full[slot], device::kEvictFirst
      );
    __syncwarp();
  }

  // A unit's x of all tokens.
  __device__ void load_rows(int slot, int unit) {
    const int piece = a.by_blocks.quotient(unit), block = unit - piece * a.blocks;
    if constexpr (Fp8) {
      const int item = a.by_groups.quotient(piece), group = piece - item * a.groups;
      quantise_rows(slot, s.expert[slot][item], group, block);
    } else {
      copy_rows(slot, block);
    }
  }

  // 128 bytes of each token, by eight lanes.
  __device__ void copy_rows(int slot, int block) {
    const int token = lane / 8, chunk = lane % 8;
    if (token >= T) return;
    const uint8_t* from = a.x + token * a.x_row_bytes + block * kTileRowBytes + chunk * 16;
    put_chunk(slot, 0, token, chunk, __ldcg(reinterpret_cast<const uint4*>(from)));
  }

  // 128 values of each token, by sixteen lanes.
  __device__ void quantise_rows(int slot, int64_t expert, int group, int block) {
    const int token = lane / 16, part = lane % 16;
    const int64_t line = (expert * 2 + lane % 2) * a.groups + group;
    const float w_scale = __ldg(a.gate_up_scale + line * a.blocks + block);
    uint4 values = {0, 0, 0, 0};
    const uint8_t* from = a.x + token * a.x_row_bytes + block * 256 + part * 16;
    if (token < T) values = __ldcg(reinterpret_cast<const uint4*>(from));
    float v[8];
    device::Vec<__nv_bfloat16>::unpack(values, v);
    const float scale = group_scale<16>(v, kEps, a.ue8m0);
    const uint2 codes = quantise(v, scale);
    uint8_t* chunk = s.rows[slot][0] + token * kTileRowBytes + ((part / 2 ^ token) * 16);
    if (token < T) *reinterpret_cast<uint2*>(chunk + part % 2 * 8) = codes;
    const float second = __shfl_sync(device::kFullWarp, scale, 16);
    if (lane < 2) s.scale[slot][lane] = {w_scale * scale, w_scale * second};
  }

  __device__ void put_chunk(int slot, int image, int token, int chunk, uint4 v) {
    const int at = token * kTileRowBytes + ((chunk ^ token) * 16);
    *reinterpret_cast<uint4*>(s.rows[slot][image] + at) = v;
  }

  // A slot's h of all tokens.
  __device__ void load_hidden(int slot, int first) {
    const int piece = first + lane / Mailed::kLanes;
    if (piece < work.last) {
      float w_scale = 1;
      if constexpr (Fp8) {
        const int item = a.by_groups.quotient(piece), group = piece - item * a.groups;
        const int64_t line = int64_t{s.expert[slot][item]} * (a.tiles / 2) + work.tile / 2;
        w_scale = __ldg(a.down_scale + line * a.groups + group);
      }
      for (int token = 0; token < T; ++token) take_letter(slot, piece, token, w_scale);
    }
    __syncwarp();
  }

  __device__ void take_letter(int slot, int piece, int token, float w_scale) {
    constexpr int kLanes = Mailed::kLanes;
    const int64_t place = (int64_t{piece} * a.tiles + work.tile) * T + token;
    uint32_t* letter = a.hidden + place * Mailed::kChunks * 4;
    uint32_t* chunk = letter + lane % kLanes * 4;
    const bool opens = lane % kLanes == 0;  // and has the scale
    uint32_t* scale = letter + kLanes * 4;
    uint4 v, more = {1, 1, 1, 1};
    do {
      v = device::peek_4(chunk);
      if (opens) more = device::peek_4(scale);
    } while (!device::arrived(v) || !device::arrived(more));
    put_chunk(slot, lane / 8, token, lane % 8, {~v.x, ~v.y, ~v.z, ~v.w});
    *reinterpret_cast<uint4*>(chunk) = {0, 0, 0, 0};
    if (opens) {
      reinterpret_cast<float*>(&s.scale[slot][lane / kLanes])[token] =
          w_scale * device::opened(more.x);
      *reinterpret_cast<uint4*>(scale) = {0, 0, 0, 0};
    }
  }
};

}  // namespace fathom::ops::moe_fused
