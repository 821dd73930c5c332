// What the formats of several APIs have in common.
#pragma once

#include <span>
#include <string_view>

#include "fathom/base/json.h"
#include "fathom/server/call.h"
#include "fathom/server/json_text.h"

namespace fathom::server {

// "stop", "length", "abort"; null while the choice goes on.
Json finish_reason(const std::optional<plan::FinishReason>& finish);
// The stop string that ended the choice, else null.
Json matched_stop(const std::optional<plan::FinishReason>& finish, const std::string& match);

Json usage_json(const plan::Usage& usage);

// A token's text by itself; U+FFFD for parts of characters.
std::string token_text(const Call& call, plan::Token token);

// The logprobs of chat: {"content": [{token, logprob, bytes, top_logprobs}]}.
Json chat_logprobs(const Call& call, std::span<const plan::TokenLogprob> logprobs);
// The logprobs of completions: parallel lists; `offset` counts the characters written and is moved.
Json completion_logprobs(
    const Call& call, std::span<const plan::TokenLogprob> logprobs, size_t& offset
);

// Usage where stream_options asks for it, and the end of the stream.
void close_stream(const Call& call, std::string_view object, std::string& out);
// The event of a choice that failed, in place of its last piece.
void append_failure(std::string_view message, std::string& out);

}  // namespace fathom::server
