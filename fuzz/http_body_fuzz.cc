// A hostile request body: every schema must end in a value within its bounds or in an Error that
// can be sent.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fathom/server/errors.h"
#include "fathom/server/openai_schema.h"

namespace {

using namespace fathom;

const server::SchemaLimits kLimits{.vocabulary = 1000};

void check(const server::GenerationBody& body) {
  const plan::SamplingParams& sampling = body.sampling;
  const bool good = body.n >= 1 && body.n <= kLimits.max_choices && sampling.temperature >= 0.0f &&
                    sampling.top_p > 0.0f && sampling.top_p <= 1.0f && sampling.top_k >= 0 &&
                    sampling.logprobs <= kLimits.max_logprobs && sampling.max_new_tokens != 0;
  if (!good) std::abort();
  for (const auto& [token, bias] : sampling.logit_bias) {
    if (token < 0 || token >= kLimits.vocabulary || !(bias >= -100.0f && bias <= 100.0f))
      std::abort();
  }
}

void check(const Error& error) {
  if (error.message.empty()) std::abort();
  if (Json::parse(server::bad_request(error).body)["error"]["message"].empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json =
      parse_json({reinterpret_cast<const char*>(data), size}, "the body", {.depth = 64});
  if (!json.ok()) return check(json.error()), 0;
  const auto chat = server::parse_chat(*json, kLimits);
  chat.ok() ? check(chat->generation) : check(chat.error());
  const auto completion = server::parse_completion(*json, kLimits);
  completion.ok() ? check(completion->generation) : check(completion.error());
  const auto generate = server::parse_generate(*json, kLimits);
  generate.ok() ? check(generate->generation) : check(generate.error());
  const auto embedding = server::parse_embedding(*json, kLimits);
  if (!embedding.ok()) check(embedding.error());
  return 0;
}
