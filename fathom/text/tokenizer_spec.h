// All that a tokenizer is made of, as the readers of the two file kinds hand it over.
#pragma once

#include <string>
#include <vector>

#include "fathom/text/added_tokens.h"
#include "fathom/text/bpe.h"
#include "fathom/text/normalizer.h"
#include "fathom/text/pre_tokenizer.h"

namespace fathom::text {

// How a token's spelling becomes bytes.
struct TokenDecoder {
  struct Replacement {
    std::string from, to;
  };
  bool byte_level = false;                // GPT-2's spelling; a token with other characters is text
  bool byte_fallback = false;             // "<0xXX>" is one byte
  std::vector<Replacement> replacements;  // in order, on tokens that are not byte level
  int strip_left = 0;                     // spaces dropped at the start of a text, at most
  bool strip_first_token_only = false;    // and only inside its first token
};

struct TokenizerSpec {
  BpeModel model;
  std::vector<AddedToken> added;  // ids may lie beyond the model's tokens
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;
  std::vector<Token> prefix, suffix;  // put around a text by add_special_tokens
  Token bos_id = -1, eos_id = -1, pad_id = -1;
  std::vector<Token> end_ids;  // named by the files; well-known ones are added
  std::string chat_template;
};

// Ids above this are refused: tables are indexed by id.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 22) - 1;

}  // namespace fathom::text
