// One HTTP request that the engine answers: what was asked about its form, and what has come so
// far. The formats turn it into bytes.
//
// Threads: one at a time, the connection's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fathom/plan/request.h"
#include "fathom/server/http.h"
#include "fathom/text/tokenizer.h"

namespace fathom::server {

// All output of one choice until now.
struct Choice {
  std::string text;
  std::vector<plan::Token> tokens;
  std::vector<plan::TokenLogprob> logprobs;
  std::vector<float> embedding;
  std::optional<plan::FinishReason> finish;
  std::string stop_match;
  std::string error;
  plan::Usage usage;
  size_t logprob_offset = 0;  // characters of the tokens whose logprobs were written
};

struct Call {
  std::string id;
  std::string model;             // as served
  int64_t created = 0;           // Unix time, s
  double started_seconds = 0.0;  // steady clock
  const text::Tokenizer* tokenizer = nullptr;
  std::vector<std::string> rids;  // of the engine requests, one for each prompt
  std::vector<std::vector<plan::Token>> prompts;
  std::vector<std::string> echoes;  // text put before the output, one for each prompt; or none
  int n = 1;
  bool is_list = false;  // the client sent a list of prompts and gets a list
  bool logprobs = false;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool return_token_ids = false;
  bool base64 = false;

  std::vector<Choice> choices;  // prompt by prompt, n each

  // Of all prompts and choices; the prompt of n choices counts once.
  plan::Usage total() const;
  // The error of a choice that failed, null when none has.
  const std::string* failure() const;
};

// How one API answers: pure functions on a call. Stream events of `piece` carry what is in `chunk`,
// which choices[index] holds already.
struct AnswerFormat {
  void (*open)(Call& call, std::string& out);  // first events of a stream
  void (*piece)(Call& call, size_t index, const plan::OutputChunk& chunk, std::string& out);
  void (*close)(Call& call, std::string& out);  // last events of a stream
  HttpResponse (*whole)(Call& call);            // the unstreamed answer
};

extern const AnswerFormat kChatFormat;
extern const AnswerFormat kCompletionFormat;
extern const AnswerFormat kGenerateFormat;
extern const AnswerFormat kEmbeddingFormat;  // whole only
extern const AnswerFormat kProbeFormat;      // whole only: /health_generate

}  // namespace fathom::server
