// Bodies of the API, parsed and validated: from JSON that may hold anything to requests of which
// every value is in bounds. Each Error carries the JSON pointer of the field. Unknown fields are
// ignored, as clients send many; fields of features that fathom lacks are refused by name.
//
// Pure functions: no engine, no tokenizer, no clock.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "fathom/base/json.h"
#include "fathom/base/result.h"
#include "fathom/plan/request.h"
#include "fathom/text/chat_template.h"

namespace fathom::server {

// What bodies are held against.
struct SchemaLimits {
  int max_choices = 128;  // n
  int max_prompts = 256;  // prompts of one body
  int max_stops = 16;     // stop strings
  int max_logit_bias = 1024;
  int max_logprobs = 20;               // top_logprobs
  int vocabulary = 0;                  // token ids are below it
  plan::SamplingParams defaults = {};  // of fields that the client leaves out
};

// What chat, completions and generate share.
struct GenerationBody {
  std::string model;              // "" when the client names none
  std::vector<std::string> rids;  // none, or one for each prompt, or one for all
  plan::SamplingParams sampling;
  std::optional<int64_t> seed;
  int n = 1;
  int priority = 0;
  std::string cache_salt;  // and extra_key
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;  // usage in every event
  bool return_token_ids = false;
};

struct ChatBody {
  GenerationBody generation;
  text::ChatInput input;
  bool continue_final_message = false;
};

using Prompt = std::variant<std::string, std::vector<plan::Token>>;

struct CompletionBody {
  GenerationBody generation;
  std::vector<Prompt> prompts;
  bool is_list = false;  // several prompts, or a list of one
  bool echo = false;
};

struct EmbeddingBody {
  std::string model;
  std::vector<Prompt> inputs;
  bool base64 = false;
};

Result<ChatBody> parse_chat(const Json& body, const SchemaLimits& limits);
Result<CompletionBody> parse_completion(const Json& body, const SchemaLimits& limits);
Result<CompletionBody> parse_generate(const Json& body, const SchemaLimits& limits);
Result<EmbeddingBody> parse_embedding(const Json& body, const SchemaLimits& limits);

}  // namespace fathom::server
