// What one step did, in the order of its Batch's rows.
#pragma once

#include <cstdint>
#include <vector>

#include "fathom/plan/batch.h"

namespace fathom::plan {

struct RowResult {
  int32_t start = 0;        // where the row really started
  int32_t accepted = 0;     // tokens that this row added; 0 for a chunk that emits nothing
  int32_t drafted = 0;      // levels of drafted tokens that it verified
  int32_t token_begin = 0;  // into StepResult::tokens and logprobs
  bool healthy = true;      // false: non-finite logits (F1)
};

struct StepResult {
  StepId id = 0;
  uint64_t incarnation = 0;
  std::vector<RowResult> rows;
  std::vector<Token> tokens;                   // accepted tokens, row after row
  std::vector<TokenLogprob> logprobs;          // one for each token when any row asked; else empty
  std::vector<std::vector<float>> embeddings;  // by row, for embedding requests; else empty
  std::vector<std::vector<float>> prompt_logprobs;  // by row, where the last chunk scores; or empty
};

}  // namespace fathom::plan
