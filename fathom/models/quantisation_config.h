// quantization_config of config.json.
#pragma once

#include "fathom/models/config_keys.h"
#include "fathom/models/model_config.h"

namespace fathom::models {

// After the family is known: FP8 in blocks is DeepSeek's; int8 or FP8 with a scale per output
// channel, FP8 with one per matrix too, and activations quantised per token as they come are any
// family's, as SGLang (w8a8_int8, w8a8_fp8) or compressed-tensors spell it.
void read_quantisation(Keys& keys, ModelConfig& config);

}  // namespace fathom::models
