// From files to a TokenizerSpec.
#pragma once

#include <string_view>

#include "fathom/base/json.h"
#include "fathom/base/result.h"
#include "fathom/text/gguf_vocabulary.h"
#include "fathom/text/tokenizer_spec.h"

namespace fathom::text {

// The text of a tokenizer.json.
Result<TokenizerSpec> read_hf_tokenizer(std::string_view tokenizer_json);

// What tokenizer_config.json (or special_tokens_map.json, which has a part of its fields) says
// besides: BOS, EOS and padding, whether BOS and EOS are added, the chat template.
void apply_tokenizer_config(const Json& config, TokenizerSpec& spec);

// The "decoder" section of a tokenizer.json.
Result<TokenDecoder> read_decoder(const Json& json);

Result<TokenizerSpec> read_gguf_tokenizer(GgufVocabulary vocabulary);

}  // namespace fathom::text
