// From a parsed body and its prompts' ids to a Call and the form of its engine requests: names,
// seed, limits that need the tokenised prompt.
#pragma once

#include <string_view>
#include <vector>

#include "fathom/server/call.h"
#include "fathom/server/openai_schema.h"
#include "fathom/server/service.h"

namespace fathom::server {

struct BuiltCall {
  Call call;
  plan::Request form;  // all but id, prompt, n and sink
};

// `id_prefix` is OpenAI's for the kind of answer, "chatcmpl-". Fails on an empty prompt and on one
// that leaves no room for a token, with the numbers; `field` is where the prompt stands.
Result<BuiltCall> build_call(
    Service& service,
    const GenerationBody& body,
    std::vector<std::vector<plan::Token>> prompts,
    std::string_view id_prefix,
    std::string_view field
);

// Submits the call.
Reply start_call(Service& service, const AnswerFormat& format, BuiltCall built);

}  // namespace fathom::server
