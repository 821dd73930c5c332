#include "fathom/ops/moe/grouped_moe.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::GroupedMoe;

// float sums of C and I terms.
constexpr Bound kF32{.absolute = 2e-5, .relative = 1e-4, .cosine = 1e-6};
// bf16 rounding of h (2^-9 of its size, averaged over I terms) and of y (2^-9).
constexpr Bound kBf16{.absolute = 2e-2, .relative = 0x1p-6, .cosine = 2e-4};
// Where h differs in its last float bits, its e4m3 code may be the neighbour (2^-4 of one term).
constexpr Bound kW8A8F32{.absolute = 1e-2, .relative = 1e-2, .cosine = 1e-4};
constexpr Bound kW8A8Bf16{.absolute = 2e-2, .relative = 0x1p-6, .cosine = 5e-4};
// WGMMA keeps about 14 bits of a block's sum: more codes of h are neighbours, and that of a large h
// is 2^-4 of the largest term.
constexpr Bound kW8A8Tiled{.absolute = 6e-2, .relative = 0x1p-6, .cosine = 5e-4};

struct Shape {
  int64_t T, E;
  int k;
  int64_t C, I;
  DType weight = DType::f8e4m3;
  DType x = DType::bf16;
  bool quantise = true;
  bool ue8m0 = false;
  bool channels = false;  // a scale per row, as int8's are
};

bool is_fp8(const Shape& s) {
  return s.weight == DType::f8e4m3 || s.weight == DType::f8e4m3x64 || s.weight == DType::f8e4m3x32;
}

bool is_int8(const Shape& s) {
  return s.weight == DType::i8 || s.weight == DType::i8x16 || s.weight == DType::i8x64;
}

Shape per_channel(Shape s) {
  s.channels = true;
  return s;
}

// Gigabytes of weights from one megabyte of random codes, copied to shuffled places.
Tensor repeated_weight(CaseInputs& in, DType stored, int64_t E, int64_t N, int64_t K) {
  const bool bf16 = stored == DType::bf16x64 || stored == DType::bf16x32;
  const bool fp8 = stored == DType::f8e4m3x64 || stored == DType::f8e4m3x32;
  const bool int8 = stored == DType::i8 || stored == DType::i8x64 || stored == DType::i8x16;
  const DType dtype = bf16 ? DType::bf16 : fp8 ? DType::f8e4m3 : int8 ? DType::i8 : stored;
  const float deviation = dtype == DType::f8e4m3 ? 100.0f : 1.0f / std::sqrt(static_cast<float>(K));
  Tensor all = in.storage(dtype, {E, N, K});
  const int64_t chunk = std::min<int64_t>(all.elements(), 1 << 20);
  const Tensor seed =
      int8 ? in.integers(dtype, {2 * chunk}, -127, 127) : in.normal(dtype, {2 * chunk}, deviation);
  const int64_t element = info(dtype).block_bytes;
  std::uniform_int_distribution<int64_t> shift(0, chunk);
  for (int64_t begin = 0; begin < all.elements(); begin += chunk) {
    const int64_t n = std::min(chunk, all.elements() - begin);
    std::memcpy(
        static_cast<uint8_t*>(all.data) + begin * element,
        static_cast<const uint8_t*>(seed.data) + shift(in.random()) * element,
        static_cast<size_t>(n * element)
    );
  }
  all.dtype = stored;  // random elements are as random in tiles and packs
  return all;
}

Tensor scales(CaseInputs& in, const Shape& s, int64_t N, int64_t K) {
  Tensor t = is_int8(s) || s.channels
                 ? in.storage(DType::f32, {s.E, N})
                 : in.storage(DType::f32, {s.E, ops::fp8_blocks(N), ops::fp8_blocks(K)});
  // Of codes that deviate by 100, int8's by 74.
  const float usual = (is_int8(s) ? 0.0135f : 0.01f) / std::sqrt(static_cast<float>(K));
  std::uniform_real_distribution<float> law(0.5f * usual, 1.5f * usual);
  for (int64_t i = 0; i < t.elements(); ++i) t.as<float>()[i] = law(in.random());
  return t;
}

// k distinct experts a token, ascending, as the gate gives them; uniform.
void route(CaseInputs& in, const Shape& s, GroupedMoe& args) {
  args.ids = in.storage(DType::i32, {s.T, s.k});
  args.weights = in.storage(DType::f32, {s.T, s.k});
  std::vector<int32_t> experts(static_cast<size_t>(s.E));
  for (size_t e = 0; e < experts.size(); ++e) experts[e] = static_cast<int32_t>(e);
  std::uniform_real_distribution<float> law(0.1f, 0.6f);
  for (int64_t t = 0; t < s.T; ++t) {
    std::shuffle(experts.begin(), experts.end(), in.random());
    int32_t* ids = args.ids.as<int32_t>() + t * s.k;
    std::copy_n(experts.begin(), s.k, ids);
    std::sort(ids, ids + s.k);
    for (int i = 0; i < s.k; ++i) args.weights.as<float>()[t * s.k + i] = law(in.random());
  }
}

GroupedMoe make(CaseInputs& in, const Shape& s) {
  GroupedMoe args;
  args.x = in.normal(s.x, {s.T, s.C});
  route(in, s, args);
  args.gate_up.data = repeated_weight(in, s.weight, s.E, 2 * s.I, s.C);
  args.down.data = repeated_weight(in, s.weight, s.E, s.C, s.I);
  const bool scaled = is_fp8(s) || is_int8(s);
  if (scaled) {
    args.gate_up.scale = scales(in, s, 2 * s.I, s.C);
    args.down.scale = scales(in, s, s.C, s.I);
  }
  args.quantise_activations = s.quantise && scaled;
  args.ue8m0 = s.ue8m0;
  args.y = in.output(s.x, {s.T, s.C});
  return args;
}

Bound bound_of(const Shape& s) {
  const bool w8a8 = (s.quantise && is_fp8(s)) || is_int8(s);
  if (w8a8 && s.weight == DType::f8e4m3x64) return kW8A8Tiled;
  // A row may round activations to bf16 before it multiplies.
  if (s.weight == DType::bf16x32) return kBf16;
  if (s.x == DType::f32) return w8a8 ? kW8A8F32 : kF32;
  return w8a8 ? kW8A8Bf16 : kBf16;
}

OpCase<GroupedMoe> moe_case(std::string name, Shape s, bool bench = false) {
  const double work = 3.0 * static_cast<double>(s.C * s.I) * static_cast<double>(s.T * s.k);
  const double memory = 3.0 * static_cast<double>(s.C * s.I * s.E);
  return {
      .name = std::move(name),
      .make = [=](CaseInputs& in) { return make(in, s); },
      .bound = bound_of(s),
      .bench = bench,
      .large = work > 3e7 || memory > 3e7,
  };
}

// Padded tokens, idle slots, one crowded expert and an addend.
OpCase<GroupedMoe> skewed_case(std::string name, Shape s) {
  OpCase<GroupedMoe> c = moe_case(std::move(name), s);
  c.make = [=](CaseInputs& in) {
    GroupedMoe args = make(in, s);
    for (int64_t t = 0; t < s.T; ++t) {
      int32_t* ids = args.ids.as<int32_t>() + t * s.k;
      if (t % 4 == 3) std::fill_n(ids, s.k, -1);
      if (t % 4 == 1) std::fill_n(ids + 1, s.k - 1, -1);
      if (t % 4 < 2) ids[0] = 2;
    }
    args.addend = in.normal(s.x, {s.T, s.C});
    // Where a GPU has no part in it.
    if (info(s.weight).pack_rows > 1 && info(s.weight).pack_rows < 64) args.scale = 2.5f;
    return args;
  };
  return c;
}

}  // namespace

OpSuite grouped_moe_suite() {
  const DType fp8 = DType::f8e4m3, bf16 = DType::bf16, f32 = DType::f32;
  std::vector<OpCase<GroupedMoe>> cases = {
      moe_case("t0", {0, 4, 2, 128, 128}),
      moe_case("f32_odd", {5, 3, 2, 48, 20, f32, f32}),
      moe_case("bf16_odd", {5, 3, 2, 64, 40, bf16, bf16}),
      moe_case("bf16_weights_f32", {5, 3, 2, 64, 40, bf16, f32}),
      moe_case("one_expert", {3, 1, 1, 128, 128, fp8, f32}),
      moe_case("fp8_dequantised", {7, 5, 2, 256, 128, fp8, f32, false}),
      moe_case("fp8_dequantised_bf16", {7, 5, 2, 256, 128, fp8, bf16, false}),
      skewed_case("skewed_f32", {9, 6, 3, 256, 128, fp8, f32}),
      skewed_case("skewed_bf16", {9, 6, 3, 256, 128, fp8, bf16}),
      skewed_case("skewed_bf16_weights", {9, 6, 3, 256, 128, bf16, bf16}),
      moe_case("nano_t1", {1, 16, 4, 384, 128, fp8, f32}, true),
      moe_case("nano_t8", {8, 16, 4, 384, 128, fp8, f32}, true),
      moe_case("nano_shared_t33", {33, 17, 5, 384, 128, fp8, bf16}),
      moe_case("v2_lite_t1", {1, 64, 6, 2048, 1408, bf16, bf16}, true),
      moe_case("v2_lite_t32", {32, 64, 6, 2048, 1408, bf16, bf16}, true),
      moe_case("v2_lite_t512", {512, 64, 6, 2048, 1408, bf16, bf16}, true),
      moe_case("v2_lite_t4096", {4096, 64, 6, 2048, 1408, bf16, bf16}, true),
      moe_case("v2_lite_fp8_t32", {32, 64, 6, 2048, 1408, fp8, bf16}, true),
      moe_case("v3_ep8_t128", {128, 32, 1, 7168, 2048}, true),
      moe_case("v3_whole_t1", {1, 256, 8, 7168, 2048}, true),
      moe_case("v3_whole_t4", {4, 256, 8, 7168, 2048}, true),
  };
  for (const int64_t T : {1, 2, 4, 8, 16, 32, 64, 128, 512, 2048, 4096}) {
    cases.push_back(moe_case("v3_tp8_t" + std::to_string(T), {T, 256, 8, 7168, 256}, true));
  }
  // Packed, as a CPU's loader leaves them; experts enough to be larger than its caches.
  const DType fp8x32 = DType::f8e4m3x32, bf16x32 = DType::bf16x32, i8x16 = DType::i8x16;
  for (const int64_t T : {1, 2, 4, 40}) {
    const std::string t = "_t" + std::to_string(T);
    cases.push_back(moe_case("nano_packed" + t, {T, 17, 5, 384, 128, fp8x32, f32}, true));
    cases.push_back(moe_case("v2_lite_packed" + t, {T, 24, 6, 2048, 1408, bf16x32, f32}, true));
    cases.push_back(moe_case("v3_packed" + t, {T, 16, 8, 7168, 2048, fp8x32, f32}, true));
    cases.push_back(moe_case("nano_int8" + t, {T, 17, 5, 384, 128, i8x16, f32}, true));
    cases.push_back(moe_case("v2_lite_int8" + t, {T, 24, 6, 2048, 1408, i8x16, f32}, true));
    cases.push_back(moe_case("v3_int8" + t, {T, 16, 8, 7168, 2048, i8x16, f32}, true));
  }
  for (const int64_t T : {1, 2, 4, 40}) {
    const std::string t = "_t" + std::to_string(T);
    const Shape nano{T, 17, 5, 384, 128, fp8x32, f32}, v3{T, 16, 8, 7168, 2048, fp8x32, f32};
    cases.push_back(moe_case("nano_channels" + t, per_channel(nano), true));
    cases.push_back(moe_case("v3_channels" + t, per_channel(v3), true));
  }
  cases.push_back(moe_case("channels_plain", per_channel({5, 3, 2, 48, 20, fp8, f32})));
  cases.push_back(skewed_case("channels_skewed", per_channel({21, 6, 3, 256, 128, fp8x32, f32})));
  cases.push_back(
      skewed_case("channels_tiled", per_channel({9, 6, 3, 256, 128, DType::f8e4m3x64, bf16}))
  );
  cases.push_back(moe_case("int8_plain", {5, 3, 2, 48, 20, DType::i8, f32}));
  cases.push_back(skewed_case("int8_skewed", {21, 6, 3, 96, 224, i8x16, f32}));
  cases.push_back(skewed_case("int8_tiled", {9, 6, 3, 256, 128, DType::i8x64, DType::bf16}));
  cases.push_back(skewed_case("packed_skewed", {21, 6, 3, 256, 384, fp8x32, f32}));
  cases.push_back(skewed_case("packed_ue8m0", {9, 6, 3, 256, 128, fp8x32, f32, true, true}));
  cases.push_back(skewed_case("packed_skewed_bf16", {9, 6, 3, 256, 96, bf16x32, f32}));
  // Tiles, as a GPU wants them.
  const DType fp8x64 = DType::f8e4m3x64, bf16x64 = DType::bf16x64;
  cases.push_back(moe_case("tiled_small", {5, 6, 2, 256, 128, fp8x64}));
  cases.push_back(moe_case("tiled_many_slots", {8, 40, 12, 128, 128, fp8x64}));
  cases.push_back(skewed_case("tiled_skewed_few", {8, 6, 3, 256, 256, fp8x64}));
  cases.push_back(skewed_case("tiled_skewed_t600", {600, 6, 3, 256, 256, fp8x64}));
  cases.push_back(skewed_case("tiled_skewed_bf16_t600", {600, 6, 3, 128, 128, bf16x64}));
  cases.push_back(moe_case("tiled_ue8m0_few", {3, 6, 2, 256, 256, fp8x64, DType::bf16, true, true})
  );
  cases.push_back(skewed_case("tiled_ue8m0", {41, 6, 3, 256, 128, fp8x64, DType::bf16, true, true})
  );
  // Pieces of pairs of CTAs, where 132 SMs are.
  cases.push_back(moe_case("tiled_t1", {1, 20, 16, 1152, 512, fp8x64}));
  cases.push_back(moe_case("tiled_t2", {2, 40, 8, 1152, 512, fp8x64}));
  cases.push_back(skewed_case("tiled_skewed_t2", {2, 40, 8, 1152, 512, fp8x64}));
  cases.push_back(skewed_case("tiled_skewed_bf16_t2", {2, 40, 8, 640, 512, bf16x64}));
  cases.push_back(moe_case("tiled_wide", {8, 40, 8, 1152, 256, fp8x64}));
  cases.push_back(moe_case("tiled_stretches", {2, 6, 2, 256, 1152, bf16x64}));
  cases.push_back(moe_case("tiled_bf16", {7, 5, 2, 128, 128, bf16x64}));
  cases.push_back(moe_case("tiled_half_slice", {20, 6, 2, 384, 128, fp8x64}));
  cases.push_back(skewed_case("tiled_skewed", {41, 6, 3, 256, 256, fp8x64}));
  cases.push_back(skewed_case("tiled_skewed_t300", {300, 6, 3, 256, 256, fp8x64}));
  cases.push_back(skewed_case("tiled_skewed_bf16", {41, 6, 3, 256, 128, bf16x64}));
  for (const int64_t T : {1, 8, 32, 128, 512, 1024, 4096}) {
    const std::string tokens = std::to_string(T);
    cases.push_back(moe_case("v3_tp8_tiled_t" + tokens, {T, 256, 8, 7168, 256, fp8x64}, true));
    cases.push_back(moe_case("v2_lite_tiled_t" + tokens, {T, 64, 6, 2048, 1408, bf16x64}, true));
  }
  for (const int64_t T : {1, 8, 32, 128, 1024, 4096})
    cases.push_back(
        moe_case("v3_whole_tiled_t" + std::to_string(T), {T, 256, 8, 7168, 2048, fp8x64}, true)
    );
  for (const int64_t T : {1, 8, 128}) {
    cases.push_back(moe_case("v3_tp8_shared_t" + std::to_string(T), {T, 257, 9, 7168, 256}, true));
  }
  return make_suite<GroupedMoe>(ops::grouped_moe_table(), std::move(cases));
}

}  // namespace fathom::testing
