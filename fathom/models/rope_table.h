// The rotary frequencies of a config and the table that ops::rope reads.
#pragma once

#include <vector>

#include "fathom/models/model_config.h"
#include "fathom/weights/loader.h"

namespace fathom::models {

// [D / 2], scaled by rule (models_other.md section 4); `factors` [D / 2] divide them when scaling
// is RopeScaling::factors.
std::vector<double> rope_frequencies(
    const RopeConfig& rope, int64_t head_dim, const std::vector<float>& factors = {}
);

// f32 [positions, D]: cosines, then sines. Takes the checkpoint's factors when the config has them.
Tensor make_rope_table(weights::Loader& loader, const ModelConfig& config, int64_t positions);

}  // namespace fathom::models
