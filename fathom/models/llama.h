// The dense family: Llama 2/3, SmolLM2, Qwen2/2.5, Qwen3.
#pragma once

#include <memory>

#include "fathom/models/model.h"

namespace fathom::models {

std::unique_ptr<Model> make_llama(const ModelConfig& config);

}  // namespace fathom::models
