// Answers of /v1/chat/completions. Streamed and whole answers carry the same bytes of text: deltas
// joined are the message's content.
#include <fmt/format.h>

#include "fathom/server/errors.h"
#include "fathom/server/format_parts.h"
#include "fathom/server/sse.h"

namespace fathom::server {
namespace {

constexpr std::string_view kChunk = "chat.completion.chunk";

// One event with one choice. `delta`, `logprobs` and `finish` are JSON already: a token's event is
// written some thousand times a second.
void append_choice(
    const Call& call,
    size_t index,
    std::string_view delta,
    std::string_view logprobs,
    std::string_view end,
    std::string& out
) {
  out += R"(data: {"id":)";
  append_json_string(out, call.id);
  out += R"(,"object":"chat.completion.chunk","created":)";
  out += std::to_string(call.created);
  out += R"(,"model":)";
  append_json_string(out, call.model);
  out += fmt::format(R"(,"choices":[{{"index":{},"delta":)", index);
  out += delta;
  out += R"(,"logprobs":)";
  out += logprobs;
  out += end;
  out += "}]";
  if (call.continuous_usage) {
    out += R"(,"usage":)";
    out += dump(usage_json(call.choices[index].usage));
  } else if (call.include_usage) {
    out += R"(,"usage":null)";
  }
  out += "}\n\n";
}

constexpr std::string_view kGoesOn = R"(,"finish_reason":null)";

void open(Call& call, std::string& out) {
  for (size_t i = 0; i < call.choices.size(); ++i) {
    append_choice(call, i, R"({"role":"assistant","content":""})", "null", kGoesOn, out);
  }
}

void piece(Call& call, size_t index, const plan::OutputChunk& chunk, std::string& out) {
  if (!chunk.text.empty() || !chunk.logprobs.empty() ||
      (call.return_token_ids && !chunk.tokens.empty())) {
    std::string delta = R"({"content":)";
    append_json_string(delta, chunk.text);
    if (call.return_token_ids) delta += R"(,"token_ids":)" + dump(chunk.tokens);
    delta += '}';
    const std::string logprobs = call.logprobs ? dump(chat_logprobs(call, chunk.logprobs)) : "null";
    append_choice(call, index, delta, logprobs, kGoesOn, out);
  }
  if (!chunk.finish) return;
  if (chunk.finish == plan::FinishReason::failed) return append_failure(chunk.error, out);
  const std::string end = fmt::format(
      R"(,"finish_reason":{},"matched_stop":{})",
      dump(finish_reason(chunk.finish)),
      dump(matched_stop(chunk.finish, chunk.stop_match))
  );
  append_choice(call, index, "{}", "null", end, out);
}

void close(Call& call, std::string& out) {
  close_stream(call, kChunk, out);
}

HttpResponse whole(Call& call) {
  if (const std::string* failure = call.failure()) return generation_failed(*failure);
  Json choices = Json::array();
  for (size_t i = 0; i < call.choices.size(); ++i) {
    const Choice& choice = call.choices[i];
    Json message = {{"role", "assistant"}, {"content", choice.text}};
    if (call.return_token_ids) message["token_ids"] = choice.tokens;
    choices.push_back(
        {{"index", i},
         {"message", std::move(message)},
         {"logprobs", call.logprobs ? chat_logprobs(call, choice.logprobs) : Json(nullptr)},
         {"finish_reason", finish_reason(choice.finish)},
         {"matched_stop", matched_stop(choice.finish, choice.stop_match)}}
    );
  }
  Json body = {
      {"id", call.id},
      {"object", "chat.completion"},
      {"created", call.created},
      {"model", call.model},
      {"choices", std::move(choices)},
      {"usage", usage_json(call.total())}};
  if (call.return_token_ids) body["prompt_token_ids"] = call.prompts[0];
  return {.body = dump(body)};
}

}  // namespace

const AnswerFormat kChatFormat = {open, piece, close, whole};

}  // namespace fathom::server
