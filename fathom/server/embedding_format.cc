// Answers of /v1/embeddings and of the /health_generate probe: never streamed.
#include <cstring>

#include "fathom/server/errors.h"
#include "fathom/server/format_parts.h"

namespace fathom::server {
namespace {

// Little-endian float32 in base64, as OpenAI's encoding_format says.
std::string base64(const std::vector<float>& values) {
  constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<uint8_t> bytes(values.size() * sizeof(float));
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t left = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j) group = group << 8 | (j < left ? bytes[i + j] : 0);
    for (size_t j = 0; j < 4; ++j) out += j <= left ? kAlphabet[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

HttpResponse embeddings(Call& call) {
  if (const std::string* failure = call.failure()) return generation_failed(*failure);
  Json data = Json::array();
  for (size_t i = 0; i < call.choices.size(); ++i) {
    const std::vector<float>& values = call.choices[i].embedding;
    data.push_back(
        {{"object", "embedding"},
         {"index", i},
         {"embedding", call.base64 ? Json(base64(values)) : Json(values)}}
    );
  }
  const int tokens = call.total().prompt_tokens;
  const Json body = {
      {"object", "list"},
      {"data", std::move(data)},
      {"model", call.model},
      {"usage", {{"prompt_tokens", tokens}, {"total_tokens", tokens}}}};
  return {.body = dump(body)};
}

HttpResponse probe(Call& call) {
  if (const std::string* failure = call.failure()) {
    return error_response(503, "the probe failed: " + *failure, "probe_failed");
  }
  return {.body = R"({"status":"ok"})"};
}

}  // namespace

const AnswerFormat kEmbeddingFormat = {nullptr, nullptr, nullptr, embeddings};
const AnswerFormat kProbeFormat = {nullptr, nullptr, nullptr, probe};

}  // namespace fathom::server
