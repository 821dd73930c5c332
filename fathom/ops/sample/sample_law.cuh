// What the rows that sample by the whole law share.
#pragma once

#include "fathom/core/exec.h"
#include "fathom/ops/sample/sample.h"

namespace fathom::ops::sampling {

constexpr float kLog2e = 1.44269504f;

struct LawArguments {
  const float* logits;
  int64_t stride;
  int vocab, rows;
  const float *temperature, *top_p, *min_p;
  const int32_t* top_k;
  const int64_t* seed;
  const int32_t* position;
  const float *repetition, *presence, *frequency;  // null: no row is penalised
  const int32_t* slot;
  int32_t* counts;
  const uint8_t* prompt_seen;
  const int32_t *bias_begin, *bias_token;  // null: none
  const float* bias_value;
  int32_t* token;
  uint8_t* healthy;
  const uint8_t* left;  // [rows], 1: to be drawn; null: all are
};
LawArguments law_arguments(const Sample& args);

// All rows, or those that are `left`; then logarithms, where wanted.
void run_law(Exec& exec, const Sample& args, const uint8_t* left);

// SplitMix64's finaliser, as uniform_of() in sample.cc, before the last step to a float: 24 bits.
__device__ __forceinline__ uint64_t random_bits(uint64_t seed, uint32_t position) {
  uint64_t x = seed + 0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(position) + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  return x >> 40;
}

}  // namespace fathom::ops::sampling
