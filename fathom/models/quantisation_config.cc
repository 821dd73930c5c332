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

bool is_int8(const Json& part, const char* strategy) {
  return part.is_object() && says(part, "num_bits", 8) && says(part, "type", "int") &&
         says(part, "strategy", strategy) && !says(part, "symmetric", false);
}

// Every group of compressed-tensors: int8 per channel, activations per token as they come.
bool is_compressed_int8(Keys& found) {
  if (found.string("format", "int-quantized") != "int-quantized") return false;
  if (!found.has("config_groups") || !found["config_groups"].is_object()) return false;
  const Json& groups = found["config_groups"];
  return !groups.empty() && std::all_of(groups.begin(), groups.end(), [](const Json& group) {
    if (!group.is_object() || !group.contains("weights")) return false;
    if (!group.contains("input_activations")) return false;
    const Json& activations = group["input_activations"];
    return is_int8(group["weights"], "channel") && is_int8(activations, "token") &&
           says(activations, "dynamic", true);
  });
}

bool is_int8_channels(Keys& found) {
  const std::string method = found.string("quant_method", "unknown");
  return method == "w8a8_int8" || (method == "compressed-tensors" && is_compressed_int8(found));
}

}  // namespace

void read_quantisation(Keys& keys, ModelConfig& config) {
  if (!keys.has("quantization_config")) return;
  const char* key = "quantization_config";
  if (!keys[key].is_object()) return keys.refuse(key, keys[key].dump(), "an object");
  Keys found(keys[key], keys.source());
  const bool deepseek = config.family == Family::deepseek;
  if (is_int8_channels(found)) {
    config.int8_channels = true;
  } else if (deepseek && is_fp8_blocks(found)) {
    config.fp8_blocks = true;
    config.ue8m0 = found.string("scale_fmt", "float") == "ue8m0";
  } else {
    keys.refuse(
        key,
        keys[key].dump(),
        deepseek ? "fp8, e4m3, in blocks of [128, 128]; w8a8_int8; compressed-tensors of int8 per "
                   "channel and token"
                 : "w8a8_int8 or compressed-tensors of int8 per channel and token in safetensors; "
                   "Q4_0 to Q8_0 and K types in GGUF"
    );
  }
}

}  // namespace fathom::models
