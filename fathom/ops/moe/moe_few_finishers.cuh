// The finishers of moe_few_sm90.cu: h from the parts of its sums, to all CTAs that multiply
// it; then outputs from the experts' sums.
#pragma once

#include "fathom/ops/device/mail.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/moe/moe_few_sm90.cuh"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops::moe_few {

template <bool Fp8>
struct Finisher {
  using Mailed = Letter<Fp8>;

  const Arguments& a;
  SharedStorage<Fp8>& s;
  const int thread = static_cast<int>(threadIdx.x) - kConsumers - kLoaders;
  int pairs = 0;

  __device__ void make_hidden() {
    if (!a.home) put_in_order();
    for (int piece = first(); piece < s.routes.items * a.groups; piece += step()) {
      const int item = a.by_groups.quotient(piece), group = piece - item * a.groups;
      for (int row = 0; row < s.routes.rows[item]; ++row) finish(item * kTokens + row, group);
    }
  }
  __device__ void make_outputs() {
    for (int tile = first(); tile < a.tiles; tile += step()) {
      if (!a.home) add_sums(tile);
      put_outputs(tile);
    }
  }

 private:
  // Of all pieces, or tiles, every so many are this CTA's.
  __device__ static int first() { return static_cast<int>(blockIdx.x); }
  __device__ static int step() { return static_cast<int>(gridDim.x); }
  __device__ static void meet() { device::named_barrier<1>(kFinishers); }

  __device__ void put_in_order() {
    for (int item = 0; item < s.routes.items; ++item) {
      const int rows = s.routes.rows[item], place = item * kTokens + thread;
      if (thread < rows) s.order[pairs + thread] = {s.routes.pair[place], s.routes.token[place]};
      pairs += rows;
    }
    meet();
  }

  // Waits for the first `count` words, and leaves zeros.
  __device__ static void take(float (&v)[kWords], uint32_t* const (&from)[kWords], int count) {
    uint32_t word[kWords];
    bool all;
    do {
      all = true;
#pragma unroll
      for (int i = 0; i < kWords; ++i) word[i] = i < count ? device::peek(from[i]) : 1;
#pragma unroll
      for (int i = 0; i < kWords; ++i) all = all && word[i] != 0;
    } while (!all);
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      v[i] = device::opened(word[i]);
      if (i < count) *from[i] = 0;
    }
  }

  // h of a row's piece: a channel a thread.
  __device__ void finish(int place, int group) {
    const int piece = s.routes.pair[place] * a.groups + group, words = 2 * a.splits;
    uint32_t* part = a.parts + int64_t{piece} * words * kChannels + thread;
    float gate = 0, up = 0;
    for (int first = 0; first < words; first += kWords) {
      uint32_t* from[kWords];
      float v[kWords];
#pragma unroll
      for (int i = 0; i < kWords; ++i) from[i] = part + (first + i) * kChannels;
      take(v, from, words - first);
#pragma unroll
      for (int i = 0; i < kWords; i += 2) {
        if (first + i >= words) continue;
        gate += v[i];
        up += v[i + 1];
      }
    }
    write_letter(silu(gate) * up, s.routes.weight[place]);
    meet();
    const int chunks = a.tiles * Mailed::kChunks;
    uint32_t* to = a.hidden + int64_t{piece} * chunks * 4;
    for (int i = thread; i < chunks; i += kFinishers) {
      const uint4 v = s.letter[i % Mailed::kChunks];
      device::send_sealed(to + i * 4, {max(v.x, 1u), max(v.y, 1u), max(v.z, 1u), max(v.w, 1u)});
    }
  }

  // Into shared memory, sealed.
  __device__ void write_letter(float v, float weight) {
    auto* letter = reinterpret_cast<uint8_t*>(s.letter);
    float scale = 1;
    if constexpr (Fp8) {
      const float largest = device::warp_max(fmaxf(fabsf(v), kEps));
      if (thread % 32 == 0) s.amax[thread / 32] = largest;
      meet();
      float amax = kEps;
#pragma unroll
      for (int i = 0; i < kFinishers / 32; ++i) amax = fmaxf(amax, s.amax[i]);
      scale = group_scale(amax, a.ue8m0);
      const float code = quotient(v, scale, __frcp_rn(scale));  // below 1e37: normal
      letter[thread] = static_cast<uint8_t>(~device::pack_e4m3(code, 0));
    } else {
      meet();
      reinterpret_cast<uint16_t*>(letter)[thread] =
          static_cast<uint16_t>(~__bfloat16_as_ushort(__float2bfloat16_rn(v)));
    }
    if (thread == 0)
      *reinterpret_cast<uint32_t*>(letter + Mailed::kBytes) = device::sealed(scale * weight);
  }

  // The experts' sums of 64 outputs, every other one by half of the threads.
  __device__ void add_sums(int tile) {
    const int output = thread % kOutputs, half = thread / kOutputs, subs = a.by_subs.by;
    const int count = (pairs * subs - half + 1) / 2;
    float total[kTokens] = {};
    for (int first = 0; first < count; first += kWords) {
      uint32_t* from[kWords];
      int token[kWords];
      float v[kWords];
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        const int which = min(2 * (first + i) + half, pairs * subs - 1);
        const int n = a.by_subs.quotient(which);
        const int2 of = s.order[n];
        from[i] = a.sums + ((of.x * a.tiles + tile) * subs + which - n * subs) * kOutputs + output;
        token[i] = first + i < count ? of.y : -1;
      }
      take(v, from, count - first);
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
#pragma unroll
        for (int t = 0; t < kTokens; ++t) total[t] += token[i] == t ? v[i] : 0;
      }
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) s.total[half][t][output] = total[t];
    meet();
  }

  __device__ void put_outputs(int tile) const {
    const int output = thread % kOutputs;
    const int64_t n = int64_t{tile} * kOutputs + output;
    for (int token = thread / kOutputs; token < a.choice.T; token += 2) {
      float v = s.total[0][token][output] + s.total[1][token][output];
      if (a.addend != nullptr)
        v += __bfloat162float(__ldcg(a.addend + token * a.addend_stride + n));
      a.y[token * a.y_stride + n] = __float2bfloat16_rn(v);
    }
    meet();
  }
};

}  // namespace fathom::ops::moe_few
