// Reads a tokenizer.json without building a tree of its vocabulary and merges, which hold hundreds
// of thousands of entries and are kept as flat lists.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fathom/base/json.h"
#include "fathom/base/result.h"
#include "fathom/plan/request.h"

namespace fathom::text {

struct TokenizerJson {
  Json root;  // without model.vocab and model.merges
  std::vector<std::pair<std::string, plan::Token>> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // best first
};

// The Error names the byte or the entry at fault.
Result<TokenizerJson> read_tokenizer_json(std::string_view text);

}  // namespace fathom::text
