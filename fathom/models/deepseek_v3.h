// DeepSeek V2-Lite, V2, V3 and R1.
#pragma once

#include <memory>

#include "fathom/models/model.h"

namespace fathom::models {

std::unique_ptr<Model> make_deepseek_v3(const ModelConfig& config);

}  // namespace fathom::models
