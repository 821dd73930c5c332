// The facts of DeepSeek V2, V3 and R1 in config.json (specs deepseek_v3, section 1).
#pragma once

#include "fathom/models/config_keys.h"
#include "fathom/models/model_config.h"

namespace fathom::models {

// Attention ranks and head dimensions, the router and its experts, the MTP layers; after the facts
// that all families share.
void read_deepseek(Keys& keys, ModelConfig& config);

// rope_scaling of type yarn.
void read_yarn(Keys& keys, RopeConfig& rope);

}  // namespace fathom::models
