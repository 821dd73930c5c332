// What a client asked for, and what it is told. Plain data; immutable once submitted, shared by all
// who read it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fathom/base/check.h"

namespace fathom::plan {

using Token = int32_t;

// How tokens are drawn. The order of the steps: logit_bias, penalties, temperature, then top_k,
// top_p and min_p each on the renormalised law before it (docs/user/sampling.md). temperature 0 is
// greedy.
struct SamplingParams {
  float temperature = 1.0f;
  int top_k = 0;                    // 0: off
  float top_p = 1.0f;               // 1: off
  float min_p = 0.0f;               // 0: off
  float repetition_penalty = 1.0f;  // of tokens in prompt or output; 1: off
  float presence_penalty = 0.0f;    // of tokens in the output; 0: off
  float frequency_penalty = 0.0f;
  std::vector<std::pair<Token, float>> logit_bias;
  uint64_t seed = 0;  // always set: drawn by whoever makes the request when the client gave none

  int max_new_tokens = -1;          // -1: as many as fit
  int min_new_tokens = 0;           // stop ids are banned before that many
  std::vector<Token> stop_ids;      // besides the model's own end tokens
  std::vector<std::string> stop;    // strings; matched on the text, also across token borders
  bool ignore_eos = false;          // the model's own end tokens do not stop
  bool include_stop = false;        // keep the matched stop string or token in the text
  bool skip_special_tokens = true;  // in the text, not in the ids

  int logprobs = -1;  // -1: none; k >= 0: of the chosen token and of the k likeliest

  bool penalised() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
};

enum class FinishReason : uint8_t { stop, length, abort, failed };

// The likeliest tokens and their log probabilities, the likeliest first; held in place, so that
// step results move between threads without allocation.
class TopLogprobs {
 public:
  static constexpr int kMost = 64;

  // CHECKs that there is room.
  void push_back(Token token, float logprob) {
    CHECK(size_ < kMost, "more than {} log probabilities for a token", kMost);
    entries_[static_cast<size_t>(size_++)] = {token, logprob};
  }
  const auto* begin() const { return entries_.data(); }
  const auto* end() const { return entries_.data() + size_; }
  int size() const { return size_; }
  bool operator==(const TopLogprobs& other) const {
    return std::equal(begin(), end(), other.begin(), other.end());
  }

 private:
  std::array<std::pair<Token, float>, kMost> entries_;
  int size_ = 0;
};

struct TokenLogprob {
  Token token = 0;
  float logprob = 0.0f;  // natural logarithm, of the law before temperature and cuts
  TopLogprobs top;
};

struct Usage {
  int prompt_tokens = 0;
  int cached_tokens = 0;      // of the prompt, taken from the prefix cache
  int completion_tokens = 0;  // as the client saw them
};

// A piece of one choice's output. The last one carries `finish`; nothing follows it.
struct OutputChunk {
  int choice = 0;    // 0 .. n-1
  std::string text;  // whole UTF-8 sequences only
  std::vector<Token> tokens;
  std::vector<TokenLogprob> logprobs;  // as many as tokens, when asked for
  std::vector<float> embedding;        // of an embedding request, with its finish
  std::vector<float>
      prompt_logprobs;  // Request::prompt_logprobs_from's, with choice 0's first token
  std::optional<FinishReason> finish;
  std::string stop_match;  // the stop string or the text of the stop id, when finish is stop
  std::string error;       // why, when finish is failed
  Usage usage;             // so far
  std::optional<double> queue_seconds;  // from submit to admission; in the request's first chunk
};

struct Request {
  std::string id;  // the client's rid, or one made for it; unique among live requests
  std::vector<Token> prompt;
  SamplingParams sampling;
  int n = 1;               // choices; they share the prompt's pages
  int priority = 0;        // higher goes first under the priority policy
  std::string cache_salt;  // prefix cache namespace (contracts T4)
  bool embedding = false;  // one pooled hidden state instead of tokens
  // Log probabilities of the prompt's tokens from this one on, as TokenLogprob's, are wanted: 1 ..
  // prompt - 1; -1: none.
  int prompt_logprobs_from = -1;
  // Called by the engine's text worker, one chunk after the other, never after the last `finish`.
  // Must not block.
  std::function<void(OutputChunk&&)> sink;
};

}  // namespace fathom::plan
