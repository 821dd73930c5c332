#include "fathom/models/quantisation_config.h"

#include <algorithm>

namespace fathom::models {
namespace {

// FP8 of DeepSeek-V3 (specs deepseek_v3, section 6.1).
bool is_fp8_blocks(Keys& found) {
  return found.string("quant_method", "unknown") == "fp8" &&
         found.string("fmt", "e4m3") == "e4m3" && found.has("weight_block_size") &&
         found["weight_block_size"] == Json::array({128, 128});
}

bool says(const Json& object, const char* key, const Json& wanted) {
  const auto found = object.find(key);
  return found != object.end() && *found == wanted;
}

// One side of a group of compressed-tensors: 8 bits of `type`, not shifted, no smaller parts.
bool is_eight_bits(const Json& part, const char* type, const char* strategy) {
  return part.is_object() && says(part, "num_bits", 8) && says(part, "type", type) &&
         says(part, "strategy", strategy) && !says(part, "symmetric", false);
}

// Every group of compressed-tensors: weights of `type`, a scale per `strategy`, activations per
// token as they come.
bool is_compressed(Keys& found, const char* format, const char* type, const char* strategy) {
  if (found.string("format", format) != format) return false;
  if (!found.has("config_groups") || !found["config_groups"].is_object()) return false;
  const Json& groups = found["config_groups"];
  return !groups.empty() && std::all_of(groups.begin(), groups.end(), [&](const Json& group) {
    if (!group.is_object() || !group.contains("weights")) return false;
    if (!group.contains("input_activations")) return false;
    const Json& activations = group["input_activations"];
    return is_eight_bits(group["weights"], type, strategy) &&
           is_eight_bits(activations, type, "token") && says(activations, "dynamic", true);
  });
}

// Fills in the one form with scales per channel or matrix that `found` describes; false: none.
bool read_channels(Keys& found, ModelConfig& config) {
  const std::string method = found.string("quant_method", "unknown");
  const bool compressed = method == "compressed-tensors";
  config.int8_channels = method == "w8a8_int8" ||
                         (compressed && is_compressed(found, "int-quantized", "int", "channel"));
  config.fp8_channels = method == "w8a8_fp8" ||
                        (compressed && is_compressed(found, "float-quantized", "float", "channel"));
  config.fp8_matrices = compressed && is_compressed(found, "float-quantized", "float", "tensor");
  return config.int8_channels || config.fp8_channels || config.fp8_matrices;
}

}  // namespace

void read_quantisation(Keys& keys, ModelConfig& config) {
  if (!keys.has("quantization_config")) return;
  const char* key = "quantization_config";
  if (!keys[key].is_object()) return keys.refuse(key, keys[key].dump(), "an object");
  Keys found(keys[key], keys.source());
  const bool deepseek = config.family == Family::deepseek;
  if (read_channels(found, config)) return;
  if (deepseek && is_fp8_blocks(found)) {
    config.fp8_blocks = true;
    config.ue8m0 = found.string("scale_fmt", "float") == "ue8m0";
  } else {
    keys.refuse(
        key,
        keys[key].dump(),
        fmt::format(
            "{}w8a8_int8; w8a8_fp8; compressed-tensors of int8 weights per channel or float ones "
            "per channel or tensor, both with dynamic activations per token; Q4_0 to Q8_0 and K "
            "types in GGUF",
            deepseek ? "fp8, e4m3, in blocks of [128, 128]; " : ""
        )
    );
  }
}

}  // namespace fathom::models
