// What a Tokenizer holds: the tables and steps of its pipeline, made ready from a TokenizerSpec.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "fathom/text/tokenizer.h"
#include "fathom/text/tokenizer_spec.h"

namespace fathom::text {

struct Tokenizer::Parts {
  explicit Parts(TokenizerSpec spec);

  // Working memory of one call.
  struct Scratch {
    explicit Scratch(const PreTokenizer& splitter) : split(splitter) {}
    PreTokenizer::State split;
    Bpe::Scratch bpe;
    std::vector<TextPart> raw_parts, parts;
    std::string normal;
  };

  // Lends a Scratch and takes it back: calls from many threads share as many as run at once.
  class ScratchPool {
   public:
    std::unique_ptr<Scratch> take(const PreTokenizer& splitter);
    void give_back(std::unique_ptr<Scratch> scratch);

   private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<Scratch>> free_;
  };

  void encode_text(
      std::string_view text, EncodeOptions options, Scratch& scratch, std::vector<Token>& tokens
  ) const;
  void encode_pieces(
      std::string_view text, bool at_start, Scratch& scratch, std::vector<Token>& tokens
  ) const;

  TokenTable spellings;  // of the model's and the added tokens
  TokenTable bytes;      // what each stands for
  std::vector<bool> special;
  Bpe bpe;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  AddedTokenMatcher raw_matcher;     // tokens looked for in the text as given
  AddedTokenMatcher normal_matcher;  // tokens looked for in the normalized text
  int strip_left;
  bool strip_first_token_only;
  std::vector<Token> prefix, suffix;
  Token bos_id, eos_id, pad_id;
  std::vector<Token> end_ids;
  std::string chat_template;
  mutable ScratchPool scratch_pool;
};

}  // namespace fathom::text
