// quantization_config of config.json.
#pragma once

#include "fathom/models/config_keys.h"
#include "fathom/models/model_config.h"

namespace fathom::models {

// After the family is known: FP8 in blocks is DeepSeek's; int8 with a scale per output channel and
// activations quantised per token is any family's, as SGLang (w8a8_int8) or compressed-tensors
// spell it.
void read_quantisation(Keys& keys, ModelConfig& config);

}  // namespace fathom::models
