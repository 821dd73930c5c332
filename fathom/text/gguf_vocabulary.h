// The vocabulary that a GGUF file carries in its metadata (keys tokenizer.ggml.* and
// tokenizer.chat_template), as plain data: filled by whoever reads the file, so that text needs to
// know nothing of GGUF.
#pragma once

#include <string>
#include <vector>

#include "fathom/plan/request.h"

namespace fathom::text {

// tokenizer.ggml.token_type, by GGUF's numbers.
enum class GgufTokenType : int {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6,
};

struct GgufVocabulary {
  std::string model;                       // tokenizer.ggml.model: "gpt2" or "llama"
  std::string pre;                         // tokenizer.ggml.pre, "" when absent
  std::vector<std::string> tokens;         // by id, as the file spells them
  std::vector<GgufTokenType> token_types;  // as many as tokens, or empty: all normal
  std::vector<float> scores;               // as many as tokens; "llama" needs them
  std::vector<std::string> merges;         // "left right", best first; "gpt2" needs them
  plan::Token bos_id = -1;                 // -1: absent, here and below
  plan::Token eos_id = -1;
  plan::Token eot_id = -1;
  plan::Token pad_id = -1;
  plan::Token unknown_id = -1;
  bool add_bos = false;  // tokenizer.ggml.add_bos_token; when absent: true for "llama"
  bool add_eos = false;
  bool add_space_prefix = true;  // tokenizer.ggml.add_space_prefix, used by "llama"
  std::string chat_template;     // tokenizer.chat_template, "" when absent
};

}  // namespace fathom::text
