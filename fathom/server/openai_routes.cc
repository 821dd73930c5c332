// OpenAI's API: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models.
#include "fathom/server/call_builder.h"
#include "fathom/server/errors.h"
#include "fathom/server/json_text.h"
#include "fathom/server/routes.h"

namespace fathom::server {
namespace {

constexpr std::string_view kTooLong = "context_length_exceeded";

Json model_json(const Service& service) {
  return {
      {"id", service.model_name()},
      {"object", "model"},
      {"created", 0},
      {"owned_by", "fathom"},
      {"root", service.model_name()},
      {"parent", nullptr},
      {"max_model_len", service.engine()->context_length()}};
}

// The rendered conversation ends with the last message open: what the template put after its text
// is cut off.
Result<void> reopen_last_message(std::string& text, const Json& messages) {
  const auto& content = messages.back()["content"].get_ref<const std::string&>();
  const size_t first = content.find_first_not_of(" \n\r\t");
  const size_t last = content.find_last_not_of(" \n\r\t");
  const std::string_view core =
      first == std::string::npos ? "" : std::string_view(content).substr(first, last - first + 1);
  const size_t place = core.empty() ? std::string::npos : text.rfind(core);
  if (place == std::string::npos) {
    return Error{
        "the last message cannot be continued: the template does not write its text as it stands",
        "/continue_final_message"};
  }
  // Trailing blanks stay when the template kept them.
  const std::string_view tail = std::string_view(content).substr(last + 1);
  size_t end = place + core.size();
  if (std::string_view(text).substr(end).starts_with(tail)) end += tail.size();
  text.resize(end);
  return {};
}

Result<std::vector<plan::Token>> chat_prompt(const Service& service, const ChatBody& body) {
  const engine::Engine& engine = *service.engine();
  const text::ChatTemplate* chat_template = engine.chat_template();
  if (!chat_template) {
    return error(
        "the model '{}' has no chat template: use /v1/completions, or serve it with "
        "--chat-template",
        service.model_name()
    );
  }
  auto text = chat_template->render(body.input);
  if (!text.ok()) return Error{"the chat template: " + text.error().message, "/messages"};
  if (body.continue_final_message) {
    auto done = reopen_last_message(*text, body.input.messages);
    if (!done.ok()) return done.error();
  }
  return engine.tokenizer().encode(*text, {.add_special_tokens = false});
}

}  // namespace

Reply chat_completions(Service& service, const HttpRequest& request) {
  auto json = parse_body(service, request);
  if (!json.ok()) return bad_request(json.error(), "invalid_json");
  auto body = parse_chat(*json, schema_limits(service));
  if (!body.ok()) return bad_request(body.error());
  if (!serves(service, body->generation.model)) {
    return model_not_found(body->generation.model, service.model_name());
  }
  auto prompt = chat_prompt(service, *body);
  if (!prompt.ok()) return bad_request(prompt.error());
  auto built =
      build_call(service, body->generation, {std::move(*prompt)}, "chatcmpl-", "/messages");
  if (!built.ok()) return bad_request(built.error(), kTooLong);
  return start_call(service, kChatFormat, std::move(*built));
}

Reply completions(Service& service, const HttpRequest& request) {
  auto json = parse_body(service, request);
  if (!json.ok()) return bad_request(json.error(), "invalid_json");
  auto body = parse_completion(*json, schema_limits(service));
  if (!body.ok()) return bad_request(body.error());
  if (!serves(service, body->generation.model)) {
    return model_not_found(body->generation.model, service.model_name());
  }
  std::vector<std::vector<plan::Token>> prompts;
  std::vector<std::string> echoes;
  for (const Prompt& prompt : body->prompts) {
    prompts.push_back(prompt_tokens(service, prompt));
    if (!body->echo) continue;
    const auto* text = std::get_if<std::string>(&prompt);
    echoes.push_back(text ? *text : service.engine()->tokenizer().decode(prompts.back()));
  }
  auto built = build_call(service, body->generation, std::move(prompts), "cmpl-", "/prompt");
  if (!built.ok()) return bad_request(built.error(), kTooLong);
  built->call.echoes = std::move(echoes);
  return start_call(service, kCompletionFormat, std::move(*built));
}

Reply embeddings(Service& service, const HttpRequest& request) {
  auto json = parse_body(service, request);
  if (!json.ok()) return bad_request(json.error(), "invalid_json");
  auto body = parse_embedding(*json, schema_limits(service));
  if (!body.ok()) return bad_request(body.error());
  if (!serves(service, body->model)) return model_not_found(body->model, service.model_name());
  std::vector<std::vector<plan::Token>> prompts;
  for (const Prompt& input : body->inputs) prompts.push_back(prompt_tokens(service, input));
  auto built = build_call(service, {}, std::move(prompts), "embd-", "/input");
  if (!built.ok()) return bad_request(built.error(), kTooLong);
  built->form.embedding = true;
  built->form.sampling.max_new_tokens = 1;
  built->call.base64 = body->base64;
  return start_call(service, kEmbeddingFormat, std::move(*built));
}

Reply list_models(Service& service, const HttpRequest&) {
  const Json body = {{"object", "list"}, {"data", Json::array({model_json(service)})}};
  return HttpResponse{.body = dump(body)};
}

Reply show_model(Service& service, const HttpRequest& request) {
  constexpr std::string_view kStem = "/v1/models/";
  const std::string name = percent_decoded(std::string_view(request.path).substr(kStem.size()));
  if (name != service.model_name()) return model_not_found(name, service.model_name());
  return HttpResponse{.body = dump(model_json(service))};
}

}  // namespace fathom::server
