// SGLang's own API: /generate, /tokenize, /detokenize, /health_generate.
#include <climits>

#include "fathom/server/call_builder.h"
#include "fathom/server/errors.h"
#include "fathom/server/fields.h"
#include "fathom/server/json_text.h"
#include "fathom/server/routes.h"
#include "fathom/server/sampling_schema.h"

namespace fathom::server {

Reply generate(Service& service, const HttpRequest& request) {
  auto json = parse_body(service, request);
  if (!json.ok()) return bad_request(json.error(), "invalid_json");
  auto body = parse_generate(*json, schema_limits(service));
  if (!body.ok()) return bad_request(body.error());
  std::vector<std::vector<plan::Token>> prompts;
  for (const Prompt& prompt : body->prompts) prompts.push_back(prompt_tokens(service, prompt));
  const bool text = json->contains("text") && !(*json)["text"].is_null();
  auto built =
      build_call(service, body->generation, std::move(prompts), "", text ? "/text" : "/input_ids");
  if (!built.ok()) return bad_request(built.error(), "context_length_exceeded");
  built->call.is_list = body->is_list;
  return start_call(service, kGenerateFormat, std::move(*built));
}

Reply tokenize(Service& service, const HttpRequest& request) {
  auto json = parse_body(service, request);
  if (!json.ok()) return bad_request(json.error(), "invalid_json");
  Fields fields(*json, "");
  std::vector<Prompt> prompts;
  bool is_list = false;
  text::EncodeOptions options;
  fields.read("add_special_tokens", options.add_special_tokens);
  read_prompts(fields, "prompt", schema_limits(service), prompts, is_list);
  for (const Prompt& prompt : prompts) {
    if (!std::holds_alternative<std::string>(prompt))
      fields.fail("prompt", "'prompt' must be text");
  }
  if (fields.failed()) return bad_request(fields.error());
  Json tokens = Json::array(), counts = Json::array();
  for (const Prompt& prompt : prompts) {
    const auto ids = service.engine()->tokenizer().encode(std::get<std::string>(prompt), options);
    counts.push_back(ids.size());
    tokens.push_back(ids);
  }
  const Json body = {
      {"tokens", is_list ? tokens : tokens[0]},
      {"count", is_list ? counts : counts[0]},
      {"max_model_len", service.engine()->context_length()}};
  return HttpResponse{.body = dump(body)};
}

Reply detokenize(Service& service, const HttpRequest& request) {
  auto json = parse_body(service, request);
  if (!json.ok()) return bad_request(json.error(), "invalid_json");
  Fields fields(*json, "");
  bool skip_special_tokens = true;
  fields.read("skip_special_tokens", skip_special_tokens);
  const Json* tokens = fields.find("tokens");
  if (!tokens) fields.fail("tokens", "'tokens' is missing");
  const bool is_list = tokens && tokens->is_array() && !tokens->empty() && tokens->at(0).is_array();
  Json texts = Json::array();
  const SchemaLimits limits = schema_limits(service);
  for (const Json& list : is_list ? *tokens : Json::array({tokens ? *tokens : Json()})) {
    std::vector<plan::Token> ids;
    if (!read_tokens(fields, "tokens", list, limits, ids)) return bad_request(fields.error());
    texts.push_back(service.engine()->tokenizer().decode(ids, skip_special_tokens));
  }
  return HttpResponse{.body = dump({{"text", is_list ? texts : texts[0]}})};
}

// One token through the whole engine, ahead of the queue.
Reply health_generate(Service& service, const HttpRequest&) {
  GenerationBody body;
  body.rids = {fmt::format("HEALTH_CHECK_{:016x}", service.random())};
  body.priority = INT_MAX;
  body.sampling.temperature = 0.0f;
  body.sampling.max_new_tokens = 1;
  body.sampling.ignore_eos = true;
  const plan::Token bos = service.engine()->tokenizer().bos_id();
  auto built = build_call(service, body, {{std::max(bos, 0)}}, "", "");
  if (!built.ok()) return bad_request(built.error());
  return start_call(service, kProbeFormat, std::move(*built));
}

}  // namespace fathom::server
