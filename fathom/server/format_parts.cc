#include "fathom/server/format_parts.h"

#include "fathom/server/errors.h"
#include "fathom/server/sse.h"

namespace fathom::server {
namespace {

Json chat_token(const Call& call, plan::Token token, float logprob) {
  Json bytes = Json::array();
  for (const char c : call.tokenizer->token_bytes(token)) bytes.push_back(static_cast<uint8_t>(c));
  return {{"token", token_text(call, token)}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
}

size_t characters(std::string_view utf8) {
  size_t count = 0;
  for (const char c : utf8) count += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  return count;
}

}  // namespace

Json finish_reason(const std::optional<plan::FinishReason>& finish) {
  if (!finish) return nullptr;
  switch (*finish) {
    case plan::FinishReason::stop:
      return "stop";
    case plan::FinishReason::length:
      return "length";
    case plan::FinishReason::abort:
      return "abort";
    case plan::FinishReason::failed:
      return "error";
  }
  return nullptr;
}

Json matched_stop(const std::optional<plan::FinishReason>& finish, const std::string& match) {
  return finish == plan::FinishReason::stop && !match.empty() ? Json(match) : Json(nullptr);
}

Json usage_json(const plan::Usage& usage) {
  return {
      {"prompt_tokens", usage.prompt_tokens},
      {"completion_tokens", usage.completion_tokens},
      {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
      {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

std::string token_text(const Call& call, plan::Token token) {
  return call.tokenizer->decode({&token, 1}, false);
}

Json chat_logprobs(const Call& call, std::span<const plan::TokenLogprob> logprobs) {
  Json content = Json::array();
  for (const plan::TokenLogprob& entry : logprobs) {
    Json token = chat_token(call, entry.token, entry.logprob);
    Json top = Json::array();
    for (const auto& [id, logprob] : entry.top) top.push_back(chat_token(call, id, logprob));
    token["top_logprobs"] = std::move(top);
    content.push_back(std::move(token));
  }
  return {{"content", std::move(content)}};
}

Json completion_logprobs(
    const Call& call, std::span<const plan::TokenLogprob> logprobs, size_t& offset
) {
  Json tokens = Json::array(), values = Json::array(), tops = Json::array(),
       offsets = Json::array();
  for (const plan::TokenLogprob& entry : logprobs) {
    const std::string text = token_text(call, entry.token);
    Json top = Json::object();
    // Several ids may share a spelling: the likeliest keeps it.
    for (const auto& [id, logprob] : entry.top) {
      const std::string spelling = token_text(call, id);
      if (!top.contains(spelling)) top[spelling] = logprob;
    }
    tokens.push_back(text);
    values.push_back(entry.logprob);
    tops.push_back(std::move(top));
    offsets.push_back(offset);
    offset += characters(text);
  }
  return {
      {"tokens", std::move(tokens)},
      {"token_logprobs", std::move(values)},
      {"top_logprobs", std::move(tops)},
      {"text_offset", std::move(offsets)}};
}

void close_stream(const Call& call, std::string_view object, std::string& out) {
  if (call.include_usage) {
    const Json event = {
        {"id", call.id},
        {"object", object},
        {"created", call.created},
        {"model", call.model},
        {"choices", Json::array()},
        {"usage", usage_json(call.total())}};
    append_event(out, dump(event));
  }
  append_done(out);
}

void append_failure(std::string_view message, std::string& out) {
  append_event(out, error_body(message, "server_error", "generation_failed"));
}

}  // namespace fathom::server
