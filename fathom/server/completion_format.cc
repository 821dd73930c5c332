// Answers of /v1/completions.
#include <fmt/format.h>

#include "fathom/server/errors.h"
#include "fathom/server/format_parts.h"
#include "fathom/server/sse.h"

namespace fathom::server {
namespace {

constexpr std::string_view kObject = "text_completion";

void append_choice(
    Call& call,
    size_t index,
    std::string_view text,
    const plan::OutputChunk& chunk,
    std::string& out
) {
  out += R"(data: {"id":)";
  append_json_string(out, call.id);
  out += R"(,"object":"text_completion","created":)";
  out += std::to_string(call.created);
  out += R"(,"model":)";
  append_json_string(out, call.model);
  out += fmt::format(R"(,"choices":[{{"index":{},"text":)", index);
  append_json_string(out, text);
  out += R"(,"logprobs":)";
  Choice& choice = call.choices[index];
  out += call.logprobs ? dump(completion_logprobs(call, chunk.logprobs, choice.logprob_offset))
                       : "null";
  if (call.return_token_ids) out += R"(,"token_ids":)" + dump(chunk.tokens);
  out += R"(,"finish_reason":)";
  out += dump(finish_reason(chunk.finish));
  if (chunk.finish) {
    out += R"(,"matched_stop":)" + dump(matched_stop(chunk.finish, chunk.stop_match));
  }
  out += "}]";
  if (call.continuous_usage) {
    out += R"(,"usage":)" + dump(usage_json(choice.usage));
  } else if (call.include_usage) {
    out += R"(,"usage":null)";
  }
  out += "}\n\n";
}

void open(Call& call, std::string& out) {
  if (call.echoes.empty()) return;
  for (size_t i = 0; i < call.choices.size(); ++i) {
    append_choice(call, i, call.echoes[i / static_cast<size_t>(call.n)], {}, out);
  }
}

void piece(Call& call, size_t index, const plan::OutputChunk& chunk, std::string& out) {
  if (chunk.finish == plan::FinishReason::failed) return append_failure(chunk.error, out);
  const bool says = !chunk.text.empty() || !chunk.logprobs.empty() || chunk.finish ||
                    (call.return_token_ids && !chunk.tokens.empty());
  if (says) append_choice(call, index, chunk.text, chunk, out);
}

void close(Call& call, std::string& out) {
  close_stream(call, kObject, out);
}

HttpResponse whole(Call& call) {
  if (const std::string* failure = call.failure()) return generation_failed(*failure);
  Json choices = Json::array();
  for (size_t i = 0; i < call.choices.size(); ++i) {
    Choice& choice = call.choices[i];
    const size_t prompt = i / static_cast<size_t>(call.n);
    Json entry = {{"index", i}, {"text", choice.text}};
    if (!call.echoes.empty()) entry["text"] = call.echoes[prompt] + choice.text;
    entry["logprobs"] = call.logprobs
                            ? completion_logprobs(call, choice.logprobs, choice.logprob_offset)
                            : Json(nullptr);
    if (call.return_token_ids) {
      entry["token_ids"] = choice.tokens;
      entry["prompt_token_ids"] = call.prompts[prompt];
    }
    entry["finish_reason"] = finish_reason(choice.finish);
    entry["matched_stop"] = matched_stop(choice.finish, choice.stop_match);
    choices.push_back(std::move(entry));
  }
  const Json body = {
      {"id", call.id},
      {"object", kObject},
      {"created", call.created},
      {"model", call.model},
      {"choices", std::move(choices)},
      {"usage", usage_json(call.total())}};
  return {.body = dump(body)};
}

}  // namespace

const AnswerFormat kCompletionFormat = {open, piece, close, whole};

}  // namespace fathom::server
