#include "fathom/engine/generation_config.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "fathom/base/json.h"

namespace fathom::engine {
namespace {

template <class T>
void read(const Json& json, const char* name, T& value) {
  const auto found = json.find(name);
  if (found != json.end() && found->is_number()) value = found->get<T>();
}

}  // namespace

Result<GenerationConfig> read_generation_config(const std::string& model_path) {
  GenerationConfig config;
  const std::string path = (std::filesystem::path(model_path) / "generation_config.json").string();
  std::ifstream file(path);
  if (!file) return config;
  std::stringstream text;
  text << file.rdbuf();
  const Result<Json> json = parse_json(text.str(), path);
  if (!json) return json.error();
  if (!json->is_object()) return error("{}: an object is wanted", path);
  read(*json, "temperature", config.sampling.temperature);
  read(*json, "top_p", config.sampling.top_p);
  read(*json, "top_k", config.sampling.top_k);
  read(*json, "min_p", config.sampling.min_p);
  read(*json, "repetition_penalty", config.sampling.repetition_penalty);
  if (const auto eos = json->find("eos_token_id"); eos != json->end()) {
    for (const Json& id : eos->is_array() ? *eos : Json::array({*eos})) {
      if (id.is_number_integer()) config.end_tokens.push_back(id.get<plan::Token>());
    }
  }
  return config;
}

}  // namespace fathom::engine
