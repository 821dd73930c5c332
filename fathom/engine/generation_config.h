// A model's generation_config.json: sampling defaults and end tokens. All fields are optional, the
// file too.
#pragma once

#include <string>
#include <vector>

#include "fathom/base/result.h"
#include "fathom/plan/request.h"

namespace fathom::engine {

struct GenerationConfig {
  plan::SamplingParams sampling;
  std::vector<plan::Token> end_tokens;
};

// Of a HF directory; defaults for anything else.
Result<GenerationConfig> read_generation_config(const std::string& model_path);

}  // namespace fathom::engine
