// The tokeniser of a model path: a HF directory's files, or the vocabulary inside a GGUF file.
#pragma once

#include <memory>
#include <string>

#include "fathom/base/result.h"
#include "fathom/text/tokenizer.h"

namespace fathom::engine {

Result<std::unique_ptr<text::Tokenizer>> load_tokenizer(const std::string& path);

}  // namespace fathom::engine
