// Answers of /generate, in SGLang's form: text and ids so far in every event, facts in meta_info.
#include "fathom/server/clock.h"
#include "fathom/server/errors.h"
#include "fathom/server/format_parts.h"
#include "fathom/server/sse.h"

namespace fathom::server {
namespace {

Json finish_object(const Choice& choice) {
  if (!choice.finish) return nullptr;
  Json object = {{"type", finish_reason(choice.finish)}};
  if (choice.finish == plan::FinishReason::stop)
    object["matched"] = matched_stop(choice.finish, choice.stop_match);
  if (choice.finish == plan::FinishReason::length)
    object["length"] = choice.usage.completion_tokens;
  return object;
}

Json token_entry(float logprob, plan::Token token) {
  return Json::array({logprob, token, nullptr});
}

Json choice_json(const Call& call, size_t index) {
  const Choice& choice = call.choices[index];
  const size_t prompt = index / static_cast<size_t>(call.n);
  Json meta = {
      {"id", call.rids[prompt]},
      {"finish_reason", finish_object(choice)},
      {"prompt_tokens", call.prompts[prompt].size()},
      {"completion_tokens", choice.usage.completion_tokens},
      {"cached_tokens", choice.usage.cached_tokens},
      {"weight_version", "default"}};
  if (choice.finish) meta["e2e_latency"] = steady_seconds() - call.started_seconds;
  if (call.logprobs) {
    Json tokens = Json::array(), tops = Json::array();
    for (const plan::TokenLogprob& entry : choice.logprobs) {
      tokens.push_back(token_entry(entry.logprob, entry.token));
      Json top = Json::array();
      for (const auto& [id, logprob] : entry.top) top.push_back(token_entry(logprob, id));
      tops.push_back(std::move(top));
    }
    meta["output_token_logprobs"] = std::move(tokens);
    meta["output_top_logprobs"] = std::move(tops);
  }
  return {{"text", choice.text}, {"output_ids", choice.tokens}, {"meta_info", std::move(meta)}};
}

bool is_batch(const Call& call) {
  return call.is_list || call.choices.size() > 1;
}

void open(Call&, std::string&) {}

void piece(Call& call, size_t index, const plan::OutputChunk& chunk, std::string& out) {
  if (chunk.finish == plan::FinishReason::failed) return append_failure(chunk.error, out);
  Json event = choice_json(call, index);
  if (is_batch(call)) event["index"] = index;
  append_event(out, dump(event));
}

void close(Call&, std::string& out) {
  append_done(out);
}

HttpResponse whole(Call& call) {
  if (const std::string* failure = call.failure()) return generation_failed(*failure);
  if (!is_batch(call)) return {.body = dump(choice_json(call, 0))};
  Json list = Json::array();
  for (size_t i = 0; i < call.choices.size(); ++i) list.push_back(choice_json(call, i));
  return {.body = dump(list)};
}

}  // namespace

const AnswerFormat kGenerateFormat = {open, piece, close, whole};

}  // namespace fathom::server
