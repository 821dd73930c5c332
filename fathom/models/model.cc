#include "fathom/models/model.h"

#include "fathom/models/deepseek_v3.h"
#include "fathom/models/llama.h"

namespace fathom::models {

Result<std::unique_ptr<Model>> make_model(const ModelConfig& config) {
  switch (config.family) {
    case Family::llama:
    case Family::qwen2:
    case Family::qwen3:
      return make_llama(config);
    case Family::deepseek:
      return make_deepseek_v3(config);
  }
  return error("architecture {} has no model", config.architecture);
}

}  // namespace fathom::models
