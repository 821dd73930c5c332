#include "fathom/models/model_config.h"

#include <cmath>

namespace fathom::models {
namespace {

std::string_view name_of(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::none:
      return "none";
    case RopeScaling::llama3:
      return "llama3";
    case RopeScaling::factors:
      return "factors of the file";
    case RopeScaling::yarn:
      return "yarn";
  }
  return "";
}

std::string_view yes_no(bool value) {
  return value ? "yes" : "no";
}

}  // namespace

double RopeConfig::attention_scale(double m) const {
  return scaling == RopeScaling::yarn && factor > 1 ? 0.1 * m * std::log(factor) + 1 : 1.0;
}

std::string ModelConfig::describe() const {
  const bool adjacent = rope.pairs == ops::RopePairs::adjacent;
  std::string text;
  const auto line = [&](std::string_view key, const auto& value) {
    text += fmt::format("{:<20} {}\n", key, value);
  };
  line("architecture", architecture);
  line("dtype", fathom::name(dtype));
  line("layers", layers);
  line("hidden", hidden);
  line("heads", fmt::format("{} (key/value {}, dimension {})", heads, kv_heads, head_dim));
  line("intermediate", intermediate);
  line("vocab", vocab);
  line("context", context);
  line("rms_eps", rms_eps);
  line("rope", fmt::format("theta {}, scaling {}", rope.theta, name_of(rope.scaling)));
  line("rope pairs", adjacent ? "adjacent" : "halves");
  line("qkv bias", yes_no(qkv_bias));
  line("qk norm", yes_no(qk_norm));
  line("tied embeddings", yes_no(tied_embeddings));
  if (mla) {
    line("attention", fmt::format("mla, latent {} + {}", mla->latent, mla->rope_dim));
    line("query rank", mla->query_rank);
  }
  if (moe) {
    line("experts", fmt::format("{}, {} per token", moe->experts, moe->experts_per_token));
    line("shared experts", moe->shared_experts);
    line("expert groups", fmt::format("{}, {} kept", moe->groups, moe->kept_groups));
  }
  if (nextn_layers > 0) line("mtp layers", nextn_layers);
  if (fp8_blocks) line("quantisation", "fp8 e4m3, blocks of 128x128");
  if (int8_channels) line("quantisation", "int8, a scale per output channel");
  if (fp8_channels) line("quantisation", "fp8 e4m3, a scale per output channel");
  if (fp8_matrices) line("quantisation", "fp8 e4m3, a scale per matrix");
  return text;
}

Result<void> validate(const ModelConfig& config, const std::string& source) {
  struct Size {
    const char* name;
    int64_t value;
  };
  constexpr int64_t kLargest = int64_t{1} << 24;  // of any size: far above real models
  for (const Size& size : {
           Size{"layers", config.layers},
           Size{"hidden size", config.hidden},
           Size{"attention heads", config.heads},
           Size{"key/value heads", config.kv_heads},
           Size{"head dimension", config.head_dim},
           Size{"intermediate size", config.intermediate},
           Size{"vocabulary", config.vocab},
           Size{"context", config.context},
           Size{"latent rank", config.mla ? config.mla->latent : 1},
           Size{"rotary dimension", config.rope_dim()},
           Size{"value dimension", config.mla ? config.mla->value_dim : 1},
       }) {
    if (size.value < 1 || size.value > kLargest) {
      return error("{}: {} is {}, 1 to {} wanted", source, size.name, size.value, kLargest);
    }
  }
  if (config.heads % config.kv_heads != 0) {
    return error(
        "{}: {} attention heads do not share {} key/value heads evenly",
        source,
        config.heads,
        config.kv_heads
    );
  }
  if (config.head_dim % 2 != 0 || config.head_dim > 512) {
    return error(
        "{}: head dimension {}; even ones up to 512 are supported", source, config.head_dim
    );
  }
  if (!(config.rms_eps > 0) || !(config.rope.theta > 0) || !(config.rope.factor > 0)) {
    return error("{}: rms_norm_eps, rope theta and rope factor must be positive", source);
  }
  return {};
}

}  // namespace fathom::models
