// What the scheduler tells each request's outbox: committed tokens, in order, and one end.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fathom/plan/request.h"

namespace fathom::plan {

// Tokens first .. first + count - 1 of one sequence's output, and perhaps its end (contracts.md S2,
// S3, I6): each index comes once, in order; nothing follows `finish`.
struct OutputRecord {
  int64_t sequence = 0;
  int32_t choice = 0;            // 0 .. n - 1
  int32_t first = 0;             // index in the output of the first token here
  int32_t token_begin = 0;       // into Outputs::tokens
  int32_t token_count = 0;       // may be 0 with a finish
  int32_t logprob_begin = -1;    // into Outputs::logprobs, one for each token; -1: not asked for
  int32_t embedding = -1;        // into Outputs::embeddings; -1: none
  int32_t prompt_logprobs = -1;  // into Outputs::prompt_logprobs; -1: none
  std::optional<FinishReason> finish;
  Token stop_token = -1;  // the stop id that ended it, which is its last token; -1: none did
  Usage usage;            // so far
  std::string error;      // why, when finish is failed or abort
};

// Records of one turn, in flat storage that is recycled.
struct Outputs {
  std::vector<OutputRecord> records;
  std::vector<Token> tokens;
  std::vector<TokenLogprob> logprobs;
  std::vector<std::vector<float>> embeddings, prompt_logprobs;

  bool empty() const { return records.empty(); }
  void clear() {
    records.clear();
    tokens.clear();
    logprobs.clear();
    embeddings.clear();
    prompt_logprobs.clear();
  }
};

}  // namespace fathom::plan
