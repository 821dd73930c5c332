#include "fathom/engine/load_tokenizer.h"

#include "fathom/weights/gguf.h"

namespace fathom::engine {
namespace {

text::GgufVocabulary vocabulary_of(const weights::GgufFile& file) {
  text::GgufVocabulary v;
  v.model = file.string("tokenizer.ggml.model").value_or("");
  v.pre = file.string("tokenizer.ggml.pre").value_or("");
  for (const std::string_view token : file.strings("tokenizer.ggml.tokens"))
    v.tokens.emplace_back(token);
  for (const int64_t type : file.integers("tokenizer.ggml.token_type")) {
    v.token_types.push_back(static_cast<text::GgufTokenType>(type));
  }
  v.scores = file.floats("tokenizer.ggml.scores");
  for (const std::string_view merge : file.strings("tokenizer.ggml.merges"))
    v.merges.emplace_back(merge);
  const auto id = [&](std::string_view key) {
    return static_cast<plan::Token>(file.integer(key).value_or(-1));
  };
  v.bos_id = id("tokenizer.ggml.bos_token_id");
  v.eos_id = id("tokenizer.ggml.eos_token_id");
  v.eot_id = id("tokenizer.ggml.eot_token_id");
  v.pad_id = id("tokenizer.ggml.padding_token_id");
  v.unknown_id = id("tokenizer.ggml.unknown_token_id");
  v.add_bos = file.boolean("tokenizer.ggml.add_bos_token").value_or(v.model == "llama");
  v.add_eos = file.boolean("tokenizer.ggml.add_eos_token").value_or(false);
  v.add_space_prefix = file.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  v.chat_template = file.string("tokenizer.chat_template").value_or("");
  return v;
}

}  // namespace

Result<std::unique_ptr<text::Tokenizer>> load_tokenizer(const std::string& path) {
  if (!weights::is_gguf(path)) return text::Tokenizer::from_hf_directory(path);
  const Result<weights::GgufFile> file = weights::GgufFile::open(path);
  if (!file) return file.error();
  return text::Tokenizer::from_gguf_vocabulary(vocabulary_of(*file));
}

}  // namespace fathom::engine
