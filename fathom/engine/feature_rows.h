// The rows that ops fall back to when a feature of their rows is off: all others are left out then
// (model_stack), and runs of the others are the feature's hits (engine_impl).
#pragma once

#include <span>
#include <string_view>

namespace fathom::engine {

using RowNames = std::span<const std::string_view>;

namespace rows_without {

// moe_gate, moe_align, merge_states; fused_kv_store: kv_append, mla_kv_append.
inline constexpr std::string_view kVectors[] = {"ref"};
// fused_quant.
inline constexpr std::string_view kFusedQuant[] = {"apart", "ref"};
// fused_rope_store and fused_kv_store: mla_store, rope_append; fused_quant: rms_norm_quant.
inline constexpr std::string_view kParts[] = {"parts", "cuda_parts", "ref"};

}  // namespace rows_without

}  // namespace fathom::engine
