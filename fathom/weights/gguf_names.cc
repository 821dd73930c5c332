// GGUF tensor names and what HF checkpoints call the same tensors.
#include <array>
#include <charconv>

#include "fathom/weights/gguf.h"

namespace fathom::weights {
namespace {

struct NamePair {
  std::string_view gguf, hf;
};

// Stems outside layers; ".weight" or ".bias" follows.
constexpr std::array<NamePair, 4> kModelNames = {{
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"rope_freqs", "model.rope_factors"},
}};

// Stems inside "blk.<i>."; ".weight" or ".bias" follows.
constexpr std::array<NamePair, 11> kLayerNames = {{
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
}};

template <size_t N>
std::string_view translate(const std::array<NamePair, N>& names, std::string_view stem) {
  for (const NamePair& pair : names) {
    if (pair.gguf == stem) return pair.hf;
  }
  return {};
}

}  // namespace

std::string hf_name(std::string_view gguf_name) {
  const size_t dot = gguf_name.rfind('.');
  if (dot == std::string_view::npos) return {};
  const std::string_view suffix = gguf_name.substr(dot);
  std::string_view stem = gguf_name.substr(0, dot);
  if (suffix != ".weight" && suffix != ".bias") return {};
  constexpr std::string_view kBlock = "blk.";
  if (!stem.starts_with(kBlock)) {
    const std::string_view name = translate(kModelNames, stem);
    return name.empty() ? "" : std::string(name).append(suffix);
  }
  stem.remove_prefix(kBlock.size());
  uint32_t layer = 0;
  const auto [end, failure] = std::from_chars(stem.data(), stem.data() + stem.size(), layer);
  if (failure != std::errc{} || end == stem.data() + stem.size() || *end != '.') return {};
  stem.remove_prefix(static_cast<size_t>(end - stem.data()) + 1);
  const std::string_view name = translate(kLayerNames, stem);
  if (name.empty()) return {};
  return fmt::format("model.layers.{}.{}{}", layer, name, suffix);
}

}  // namespace fathom::weights
