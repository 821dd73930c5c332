// The consumers of moe_few_fused_sm90.cu: both products, and what the CTAs mail each other.
#pragma once

#include "fathom/ops/device/mail.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/moe/moe_fused_sm90.cuh"
#include "fathom/ops/moe/moe_products.cuh"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops::moe_fused {

using device::Ring;

template <bool Fp8>
struct Consumer {
  using Mailed = Letter<Fp8>;

  const Arguments& a;
  SharedStorage<Fp8>& s;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int T = a.choice.T;
  Work work = {};

  __device__ void run() {
    const SlotPlace place(a.choice, a.by_k);
    device::wait_for_predecessor();
    const SlotRoute route(a.choice, place);
    work = Work::template of<Fp8>(a, __popc(route.opens));
    Ring<kSlots> ring;
    multiply_units(ring);
    const int ended = a.by_blocks.quotient(work.end);  // pieces
    for (int piece = a.by_blocks.quotient(work.begin); piece < ended; ++piece) finish(route, piece);
    if (work.share < a.shares) {
      multiply_pieces(ring);
      put_outputs();
    }
  }

 private:
  // The first product: this CTA's parts of its pieces.
  __device__ void multiply_units(Ring<kSlots>& ring) {
    int which = 0;
#pragma unroll 1
    for (int unit = work.begin; unit < work.end; ++which) {
      float sum[2][4] = {};
      const int end = min((a.by_blocks.quotient(unit) + 1) * a.blocks, work.end);
#pragma unroll 1
      for (; unit < end; ++unit) {
        s.full[ring.stage].wait(ring.full_parity());
        multiply_unit(sum, ring.stage);
        __syncwarp();
        if (lane == 0) s.empty[ring.stage].arrive();
        ring.advance();
      }
      send_part(sum, which);
    }
  }

  __device__ void multiply_unit(float (&sum)[2][4], int slot) {
    const int half = static_cast<int>(threadIdx.x) / 128;
    const auto join = [&](float(&of)[4], const float(&products)[4], int which) {
      add(of, products, s.scale[slot][which]);
    };
    multiply_gate_up<Fp8>(sum, s.w[slot] + 2 * half, s.rows[slot][0], join);
  }

  // Of both tokens: columns that are none hold zeros.
  __device__ static void add(float (&sum)[4], const float (&products)[4], float2 scale) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = fmaf(i % 2 == 0 ? scale.x : scale.y, products[i], sum[i]);
  }

  // `which` of the pieces that a CTA has a part of.
  __device__ uint32_t* part(int cta, int which, int product, int token) const {
    return a.parts + (((cta * a.each + which) * 2 + product) * T + token) * kChannels;
  }

  __device__ void send_part(const float (&sum)[2][4], int which) const {
    if (lane % 4 != 0) return;
    const int channel = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i % 2 >= T) continue;
#pragma unroll
      for (int product = 0; product < 2; ++product) {
        uint32_t* to = part(static_cast<int>(blockIdx.x), which, product, i % 2);
        device::send(to + channel + i / 2 * 8, sum[product][i]);
      }
    }
  }

  // h of a piece from the parts of its CTAs, of which this is the last: a channel a thread.
  __device__ void finish(const SlotRoute& route, int piece) {
    const int token = static_cast<int>(threadIdx.x) / kChannels;
    const int channel = static_cast<int>(threadIdx.x) % kChannels;
    const int item = a.by_groups.quotient(piece);
    float gate = 0, up = 0;
    if (token < T) add_parts(gate, up, piece, token, channel);
    const uint32_t of_token =
        __ballot_sync(device::kFullWarp, route.kept && route.rank == item && route.token == token);
    const int at = of_token == 0 ? 0 : __ffs(static_cast<int>(of_token)) - 1;
    const float some = __shfl_sync(device::kFullWarp, route.weight, at);
    const float weight = of_token == 0 ? 0 : some;
    const float v = of_token == 0 ? 0 : silu(gate) * up;
    write_letter(token, channel, v, weight);  // also of a token that is none: all meet there
    device::named_barrier<1>(kConsumers);
    send_hidden(piece);
  }

  __device__ void add_parts(float& gate, float& up, int piece, int token, int channel) const {
    const int last = static_cast<int>(blockIdx.x);
    const int first = Divisor::found(work.per_cta).quotient(piece * a.blocks);
    const int before =
        piece - a.by_blocks.quotient(first * work.per_cta);  // pieces of the first CTA
    for (int from = first; from <= last; from += kPartsAtOnce) {
      uint32_t word[kPartsAtOnce][2];
      bool all;
      do {
        all = true;
#pragma unroll
        for (int i = 0; i < kPartsAtOnce; ++i) {
          const int cta = from + i, which = cta == first ? before : 0;
#pragma unroll
          for (int product = 0; product < 2; ++product)
            word[i][product] = cta <= last
                                   ? device::peek(part(cta, which, product, token) + channel)
                                   : device::sealed(0);
        }
#pragma unroll
        for (int i = 0; i < 2 * kPartsAtOnce; ++i) all = all && word[i / 2][i % 2] != 0;
      } while (!all);
#pragma unroll
      for (int i = 0; i < kPartsAtOnce; ++i) {
        const int cta = from + i, which = cta == first ? before : 0;
        if (cta > last) continue;
        gate += device::opened(word[i][0]);
        up += device::opened(word[i][1]);
        part(cta, which, 0, token)[channel] = 0;
        part(cta, which, 1, token)[channel] = 0;
      }
    }
  }

  // Into shared memory, sealed. Meets all consumers once.
  __device__ void write_letter(int token, int channel, float v, float weight) {
    auto* letter = reinterpret_cast<uint8_t*>(&s.letter[token * Mailed::kChunks]);
    float scale = 1;
    if constexpr (Fp8) {
      const int warp = static_cast<int>(threadIdx.x) / 32;
      const float largest = device::warp_max(fmaxf(fabsf(v), kEps));
      if (lane == 0) s.amax[warp] = largest;
      device::named_barrier<1>(kConsumers);
      float amax = kEps;
#pragma unroll
      for (int i = 0; i < kChannels / 32; ++i) amax = fmaxf(amax, s.amax[warp / 4 * 4 + i]);
      scale = group_scale(amax, a.ue8m0);
      const float code = quotient(v, scale, __frcp_rn(scale));  // below 1e37: normal
      letter[channel] = static_cast<uint8_t>(~device::pack_e4m3(code, 0));
    } else {
      device::named_barrier<1>(kConsumers);
      reinterpret_cast<uint16_t*>(letter)[channel] =
          static_cast<uint16_t>(~__bfloat16_as_ushort(__float2bfloat16_rn(v)));
    }
    if (channel == 0)
      *reinterpret_cast<uint32_t*>(letter + Mailed::kBytes) = device::sealed(scale * weight);
  }

  // To all CTAs that multiply it.
  __device__ void send_hidden(int piece) const {
    const int letters = T * Mailed::kChunks;
    uint32_t* to = a.hidden + int64_t{piece} * a.tiles * letters * 4;
    int chunk = static_cast<int>(threadIdx.x) % letters;
    for (int i = static_cast<int>(threadIdx.x); i < a.tiles * letters; i += kConsumers) {
      const uint4 v = s.letter[chunk];
      device::send_sealed(
          to + int64_t{i} * 4, {max(v.x, 1u), max(v.y, 1u), max(v.z, 1u), max(v.w, 1u)}
      );
      chunk += kConsumers % letters;
      if (chunk >= letters) chunk -= letters;
    }
  }

  // The second product: a warpgroup has the first or the second half of each tile's K.
  __device__ void multiply_pieces(Ring<kSlots>& ring) {
    float sum[4] = {};
#pragma unroll 1
    for (int slot = 0; slot < work.slots; ++slot) {
      s.full[ring.stage].wait(ring.full_parity());
      const int count = work.last - work.first - slot * Mailed::kPieces;
      multiply_slot(sum, ring.stage, count);
      __syncwarp();
      if (lane == 0) s.empty[ring.stage].arrive();
      ring.advance();
    }
    if (lane % 4 != 0) return;
    const int thread = static_cast<int>(threadIdx.x), row = thread % 128 / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) s.total[thread / 128][i % 2][row + i / 2 * 8] = sum[i];
  }

  __device__ void multiply_slot(float (&sum)[4], int slot, int count) {
    constexpr int kPieces = Mailed::kPieces, kSteps = kTiles / kPieces * 2;
    const int half = static_cast<int>(threadIdx.x) / 128;
    float products[kPieces][4];
    device::wgmma_fence();
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int tile = p * (kTiles / kPieces) + i / 2;
        const auto step = static_cast<uint64_t>(4 * half + 2 * (i % 2));
        const uint64_t w = device::operand_descriptor(s.w[slot][tile]) + step;
        const uint64_t h = device::operand_descriptor(s.rows[slot][tile]) + step;
        if constexpr (Fp8) {
          device::mma_e4m3(products[p], w, h, i > 0);
        } else {
          device::mma_bf16(products[p], w, h, i > 0);
        }
      }
    }
    device::wgmma_commit();
    device::wgmma_wait<0>();
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      device::pin(products[p]);
      if (p < count) add(sum, products[p], s.scale[slot][p]);
    }
  }

  // 64 outputs of each token from both warpgroups' sums, and of all shares in their order.
  __device__ void put_outputs() {
    device::named_barrier<1>(kConsumers);
    const int token = static_cast<int>(threadIdx.x) / kOutputs;
    const int output = static_cast<int>(threadIdx.x) % kOutputs;
    if (token >= T) return;
    float v = s.total[0][token][output] + s.total[1][token][output];
    const auto letter = [&](int share) {
      return a.sums + ((work.tile * a.shares + share) * T + token) * kOutputs + output;
    };
    if (work.share > 0) return device::send(letter(work.share), v);
    if (a.shares > 1) {
      uint32_t word[kShares];
      bool all;
      do {
        all = true;
#pragma unroll
        for (int i = 1; i < kShares; ++i) word[i] = i < a.shares ? device::peek(letter(i)) : 1;
#pragma unroll
        for (int i = 1; i < kShares; ++i) all = all && word[i] != 0;
      } while (!all);
#pragma unroll
      for (int i = 1; i < kShares; ++i) {
        if (i >= a.shares) continue;
        v += device::opened(word[i]);
        *letter(i) = 0;
      }
    }
    const int64_t n = int64_t{work.tile} * kOutputs + output;
    if (a.addend != nullptr) v += __bfloat162float(__ldcg(a.addend + token * a.addend_stride + n));
    a.y[token * a.y_stride + n] = __float2bfloat16_rn(v);
  }
};

}  // namespace fathom::ops::moe_fused
