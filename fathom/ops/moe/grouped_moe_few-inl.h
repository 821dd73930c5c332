// What the rows of grouped_moe for few tokens share: the slots of a step in the order of their
// experts, SwiGLU of a tile, and the sums of experts' outputs. They add what `gathered` adds, in
// its order.
#if defined(FATHOM_OPS_MOE_GROUPED_MOE_FEW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_MOE_GROUPED_MOE_FEW_INL_H_
#undef FATHOM_OPS_MOE_GROUPED_MOE_FEW_INL_H_
#else
#define FATHOM_OPS_MOE_GROUPED_MOE_FEW_INL_H_
#endif

#include <algorithm>

#include "fathom/ops/moe/grouped_moe.h"
#include "fathom/ops/moe/moe_align.h"
#include "fathom/ops/simd/elements-inl.h"
#include "fathom/ops/simd/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

inline constexpr int64_t kOutRows = 64;  // rows of y that one item of work sums

// A step's slots, in the workspace.
struct FewSlots {
  const GroupedMoe& args;
  const int32_t* slots;
  const int32_t* begin;
  int64_t count = 0;          // of slots with an expert
  int32_t* active = nullptr;  // experts with slots
  int64_t experts = 0;        // how many
  int64_t most_tokens = 0;    // of an expert

  static FewSlots of(Exec& exec, const GroupedMoe& args) {
    const int64_t E = args.gate_up.data.dim(0), n = args.ids.elements();
    const MoeAlign align = moe_align(exec, args.ids, E);
    FewSlots s{
        .args = args, .slots = align.slots.as<int32_t>(), .begin = align.begin.as<int32_t>()};
    s.count = s.begin[E];
    s.active = exec.workspace->alloc(DType::i32, {std::min(E, n)}).as<int32_t>();
    for (int64_t e = 0; e < E; ++e) {
      if (s.begin[e] == s.begin[e + 1]) continue;
      s.active[s.experts++] = static_cast<int32_t>(e);
      s.most_tokens = std::max<int64_t>(s.most_tokens, s.begin[e + 1] - s.begin[e]);
    }
    return s;
  }
  // Of active expert a.
  int64_t first(int64_t a) const { return begin[active[a]]; }
  int64_t tokens(int64_t a) const { return begin[active[a] + 1] - first(a); }
  int64_t token_of(int64_t i) const { return slots[i] / args.ids.dim(1); }
};

// g = silu(g) * u, both [n].
inline void swiglu(float* g, const float* u, int64_t n) {
  for (int64_t c = 0; c < n; c += kLanes)
    hn::Store(silu(hn::Load(F32(), g + c)) * hn::Load(F32(), u + c), F32(), g + c);
}

// sums [T, kOutRows] += the outputs [tokens, kOutRows] of active expert a, times their weights.
inline void add_outputs(const FewSlots& s, int64_t a, const float* out, float* sums) {
  const int64_t k = s.args.ids.dim(1);
  for (int64_t i = 0; i < s.tokens(a); ++i) {
    const int32_t slot = s.slots[s.first(a) + i];
    const VF weight = hn::Set(F32(), s.args.weights.row(slot / k).as<float>()[slot % k]);
    float* sum = sums + slot / k * kOutRows;
    for (int64_t r = 0; r < kOutRows; r += kLanes) {
      const VF product = weight * hn::Load(F32(), out + i * kOutRows + r);
      hn::Store(hn::Load(F32(), sum + r) + product, F32(), sum + r);
    }
  }
}

// Columns [c, c + kOutRows) of y from their sums.
inline void store_outputs(const GroupedMoe& args, int64_t c, const float* sums) {
  for (int64_t t = 0; t < args.x.dim(0); ++t) {
    float* y = element<float>(args.y, t * args.y.stride(0) + c);
    for (int64_t r = 0; r < kOutRows; r += kLanes) {
      VF value = hn::Set(F32(), args.scale) * hn::Load(F32(), sums + t * kOutRows + r);
      if (args.addend.defined())
        value = value +
                hn::LoadU(F32(), element<float>(args.addend, t * args.addend.stride(0) + c + r));
      hn::StoreU(value, F32(), y + r);
    }
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
