#include "fathom/text/tokenizer.h"

#include <filesystem>
#include <optional>

#include "fathom/base/mapped_file.h"
#include "fathom/text/detokenizer.h"
#include "fathom/text/tokenizer_parts.h"
#include "fathom/text/tokenizer_readers.h"
#include "fathom/text/utf8.h"

namespace fathom::text {
namespace {

Result<std::string> read_text(const std::string& path) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file) return file.error();
  const auto bytes = file->bytes();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// Applies the configuration file `name` of `directory` to the spec, if it is there.
Result<void> apply_config_file(
    const std::string& directory, const std::string& name, TokenizerSpec& spec
) {
  const std::string path = directory + "/" + name;
  if (!std::filesystem::exists(path)) return {};
  Result<std::string> text = read_text(path);
  if (!text) return text.error();
  Result<Json> json = parse_json(*text, path);
  if (!json) return json.error();
  apply_tokenizer_config(*json, spec);
  return {};
}

Result<void> apply_template_file(const std::string& directory, TokenizerSpec& spec) {
  const std::string path = directory + "/chat_template.jinja";
  if (!std::filesystem::exists(path)) return {};
  Result<std::string> text = read_text(path);
  if (!text) return text.error();
  spec.chat_template = std::move(*text);
  return {};
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<Tokenizer>> Tokenizer::from_hf_directory(const std::string& directory) {
  const std::string path = directory + "/tokenizer.json";
  Result<std::string> text = read_text(path);
  if (!text) return text.error();
  Result<TokenizerSpec> spec = read_hf_tokenizer(*text);
  if (!spec) return error("{}: {}", directory, spec.error().message);
  // The map is older and weaker: what the configuration says stands.
  for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"}) {
    Result<void> applied = apply_config_file(directory, name, *spec);
    if (!applied) return applied.error();
  }
  Result<void> applied = apply_template_file(directory, *spec);
  if (!applied) return applied.error();
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::make_unique<Parts>(std::move(*spec))));
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::from_hf_json(
    std::string_view tokenizer_json, std::string_view tokenizer_config_json
) {
  Result<TokenizerSpec> spec = read_hf_tokenizer(tokenizer_json);
  if (!spec) return spec.error();
  if (!tokenizer_config_json.empty()) {
    Result<Json> config = parse_json(tokenizer_config_json, "tokenizer_config.json");
    if (!config) return config.error();
    apply_tokenizer_config(*config, *spec);
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::make_unique<Parts>(std::move(*spec))));
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::from_gguf_vocabulary(GgufVocabulary vocabulary) {
  Result<TokenizerSpec> spec = read_gguf_tokenizer(std::move(vocabulary));
  if (!spec) return spec.error();
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::make_unique<Parts>(std::move(*spec))));
}

std::vector<Token> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = replace_invalid_utf8(text);
    text = repaired;
  }
  std::vector<Token> tokens;
  tokens.reserve(text.size() / 3 + 8);
  if (options.add_special_tokens) tokens = parts_->prefix;
  std::unique_ptr<Parts::Scratch> scratch = parts_->scratch_pool.take(parts_->pre_tokenizer);
  parts_->encode_text(text, options, *scratch, tokens);
  parts_->scratch_pool.give_back(std::move(scratch));
  if (options.add_special_tokens) {
    tokens.insert(tokens.end(), parts_->suffix.begin(), parts_->suffix.end());
  }
  return tokens;
}

std::string Tokenizer::decode(std::span<const Token> tokens, bool skip_special_tokens) const {
  Detokenizer detokenizer(*this, skip_special_tokens);
  std::string text;
  for (const Token token : tokens) detokenizer.add(token, text);
  detokenizer.finish(text);
  return text;
}

int Tokenizer::vocabulary_size() const {
  return parts_->spellings.size();
}

std::string_view Tokenizer::token(Token id) const {
  return parts_->spellings[id];
}

std::string_view Tokenizer::token_bytes(Token id) const {
  return parts_->bytes[id];
}

Token Tokenizer::token_id(std::string_view token) const {
  return parts_->spellings.find(token);
}

Token Tokenizer::bos_id() const {
  return parts_->bos_id;
}

Token Tokenizer::eos_id() const {
  return parts_->eos_id;
}

Token Tokenizer::pad_id() const {
  return parts_->pad_id;
}

bool Tokenizer::is_special(Token id) const {
  return id >= 0 && id < vocabulary_size() && parts_->special[id];
}

const std::vector<Token>& Tokenizer::end_ids() const {
  return parts_->end_ids;
}

const std::string& Tokenizer::chat_template() const {
  return parts_->chat_template;
}

}  // namespace fathom::text
