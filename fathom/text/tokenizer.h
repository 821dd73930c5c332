// Text to token ids and back, as the model's own tokenizer does it: byte pair encoding with the
// pipeline of a Hugging Face tokenizer.json (added tokens, normalizer, pre-tokenizer, merges,
// post-processor, decoder) or of the vocabulary that a GGUF file carries. Ids equal those of the
// `tokenizers` package.
//
// Threads: immutable after construction; every method may be called from any thread at once.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/base/result.h"
#include "fathom/plan/request.h"
#include "fathom/text/gguf_vocabulary.h"

namespace fathom::text {

using plan::Token;

struct EncodeOptions {
  // Put what the model's post-processor puts around a text (often one BOS). Chat templates write
  // their own BOS: encode their output with false.
  bool add_special_tokens = true;
  // Read special tokens that are spelled out in the text as those tokens. False takes the spelling
  // for plain text, which is what untrusted text wants. Added tokens that the model does not flag
  // special are read either way.
  bool parse_special_tokens = true;
};

class Tokenizer {
 public:
  // From a Hugging Face model directory: tokenizer.json, and where they exist
  // tokenizer_config.json, special_tokens_map.json and chat_template.jinja. An unknown component is
  // an Error that names it and what is supported.
  static Result<std::unique_ptr<Tokenizer>> from_hf_directory(const std::string& directory);

  // From the text of the two files; `tokenizer_config_json` may be empty.
  static Result<std::unique_ptr<Tokenizer>> from_hf_json(
      std::string_view tokenizer_json, std::string_view tokenizer_config_json = {}
  );

  static Result<std::unique_ptr<Tokenizer>> from_gguf_vocabulary(GgufVocabulary vocabulary);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Any bytes are accepted: invalid UTF-8 is read as U+FFFD, one for each maximal invalid part.
  std::vector<Token> encode(std::string_view text, EncodeOptions options = {}) const;

  // Always valid UTF-8. Ids outside the vocabulary give no text (models pad their vocabularies).
  // Equal to feeding a Detokenizer.
  std::string decode(std::span<const Token> tokens, bool skip_special_tokens = true) const;

  // The largest id + 1. The model's padded vocabulary may be larger.
  int vocabulary_size() const;

  // The spelling of a token in the vocabulary ("Ġthe", "▁the", "<|im_end|>"); "" when there is no
  // such id. Valid as long as the tokenizer.
  std::string_view token(Token id) const;
  // The bytes that a token stands for in the middle of a text; may be part of a UTF-8 sequence.
  std::string_view token_bytes(Token id) const;
  // The id of a spelling, -1 when there is none.
  Token token_id(std::string_view token) const;

  // -1 when the model names none.
  Token bos_id() const;
  Token eos_id() const;
  Token pad_id() const;

  // Control tokens, which skip_special_tokens leaves out of the text.
  bool is_special(Token id) const;

  // Ids that end a turn or a text: the model's EOS and well-known end markers that it has
  // ("<|im_end|>", "<|eot_id|>", ...). Generation stops at them besides those that
  // generation_config.json names. Ascending.
  const std::vector<Token>& end_ids() const;

  // The model's chat template in Jinja, "" when it has none.
  const std::string& chat_template() const;

 private:
  friend class Detokenizer;
  struct Parts;
  explicit Tokenizer(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace fathom::text
