// Reads the Hugging Face files: tokenizer.json and tokenizer_config.json.
#include <algorithm>
#include <unordered_map>

#include "fathom/text/json_fields.h"
#include "fathom/text/tokenizer_json.h"
#include "fathom/text/tokenizer_readers.h"

namespace fathom::text {
namespace {

constexpr size_t kMaxAddedTokens = 1 << 17;

Result<void> check_model_options(const Json& model) {
  const std::string type = string_field(model, "type", "BPE");
  if (type != "BPE") return error("tokenizer.json: model \"{}\" is not supported (BPE)", type);
  if (field(model, "dropout").is_number() && field(model, "dropout").get<double>() != 0) {
    return error("tokenizer.json: BPE with dropout is not supported: set model.dropout to null");
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!string_field(model, name, "").empty()) {
      return error("tokenizer.json: BPE with a {} is not supported", name);
    }
  }
  return {};
}

Result<void> read_vocabulary(TokenizerJson& json, BpeModel& model) {
  if (json.vocabulary.empty()) {
    return error("tokenizer.json: model.vocab is missing or empty (an object of token to id)");
  }
  for (auto& [token, id] : json.vocabulary) {
    if (static_cast<size_t>(id) >= model.tokens.size()) model.tokens.resize(id + 1);
    model.tokens[id] = std::move(token);
  }
  return {};
}

Result<void> read_merges(const TokenizerJson& json, const TokenTable& table, BpeModel& model) {
  model.merges.reserve(json.merges.size());
  for (const auto& [left, right] : json.merges) {
    const int rank = static_cast<int>(model.merges.size());
    const Merge merge{table.find(left), table.find(right), table.find(left + right), rank};
    if (merge.left < 0 || merge.right < 0 || merge.merged < 0) {
      return error(
          "tokenizer.json: merge {} (\"{}\" \"{}\") needs a token that is not in model.vocab",
          rank,
          left,
          right
      );
    }
    model.merges.push_back(merge);
  }
  return {};
}

Result<void> read_model(TokenizerJson& json, TokenizerSpec& spec) {
  const Json& section = field(json.root, "model");
  BpeModel& model = spec.model;
  Result<void> done = check_model_options(section);
  if (!done) return done;
  done = read_vocabulary(json, model);
  if (!done) return done;
  const TokenTable table(model.tokens);
  done = read_merges(json, table, model);
  if (!done) return done;
  model.byte_level = spec.pre_tokenizer.byte_level();
  model.byte_fallback = bool_field(section, "byte_fallback", false);
  model.ignore_merges = bool_field(section, "ignore_merges", false);
  model.fuse_unknown = bool_field(section, "fuse_unk", false);
  const std::string unknown = string_field(section, "unk_token", "");
  if (unknown.empty()) return {};
  model.unknown_id = table.find(unknown);
  if (model.unknown_id >= 0) return {};
  return error("tokenizer.json: unk_token \"{}\" is not in model.vocab", unknown);
}

Result<void> read_added_tokens(const Json& root, TokenizerSpec& spec) {
  const Json& list = field(root, "added_tokens");
  if (list.size() > kMaxAddedTokens) {
    return error("tokenizer.json: {} added tokens, at most {}", list.size(), kMaxAddedTokens);
  }
  const TokenTable table(spec.model.tokens);
  for (const Json& json : list) {
    AddedToken token;
    token.content = string_field(json, "content", "");
    token.special = bool_field(json, "special", false);
    token.normalized = bool_field(json, "normalized", !token.special);
    token.lstrip = bool_field(json, "lstrip", false);
    token.rstrip = bool_field(json, "rstrip", false);
    token.single_word = bool_field(json, "single_word", false);
    const int64_t id = integer_field(json, "id", -1);
    if (token.content.empty() || id < 0 || id > kMaxTokenId) {
      return error(
          "tokenizer.json: added token \"{}\" with id {}: needs content and an id in 0 .. {}",
          token.content,
          id,
          kMaxTokenId
      );
    }
    // A token that the model has too keeps the model's id.
    const Token in_model = table.find(token.content);
    token.id = in_model >= 0 ? in_model : static_cast<Token>(id);
    spec.added.push_back(std::move(token));
  }
  return {};
}

Token find_token(const TokenizerSpec& spec, std::string_view content) {
  for (const AddedToken& token : spec.added) {
    if (token.content == content) return token.id;
  }
  const auto found = std::find(spec.model.tokens.begin(), spec.model.tokens.end(), content);
  if (content.empty() || found == spec.model.tokens.end()) return -1;
  return static_cast<Token>(found - spec.model.tokens.begin());
}

bool has_token(const TokenizerSpec& spec, Token id) {
  const auto& tokens = spec.model.tokens;
  if (static_cast<size_t>(id) < tokens.size() && !tokens[id].empty()) return true;
  return std::any_of(spec.added.begin(), spec.added.end(), [&](const AddedToken& token) {
    return token.id == id;
  });
}

// Appends the ids that a template's special token stands for.
Result<void> template_ids(
    const Json& section, const std::string& name, const TokenizerSpec& spec, std::vector<Token>& ids
) {
  const Json& token = field(field(section, "special_tokens"), name.c_str());
  const Json& list = field(token, "ids");
  if (!list.is_array()) {
    return error("tokenizer.json: TemplateProcessing has no special token \"{}\"", name);
  }
  for (const Json& id : list) {
    const bool in_range = id.is_number_unsigned() && id.get<uint64_t>() <= kMaxTokenId;
    if (!in_range || !has_token(spec, id.get<Token>())) {
      return error(
          "tokenizer.json: TemplateProcessing: special token \"{}\" has the id {}, which no token "
          "has",
          name,
          id.dump()
      );
    }
    ids.push_back(id.get<Token>());
  }
  return {};
}

Result<void> read_template(const Json& section, TokenizerSpec& spec) {
  std::vector<Token> prefix, suffix;
  bool seen = false;
  for (const Json& piece : field(section, "single")) {
    if (piece.contains("Sequence")) {
      if (seen) return error("tokenizer.json: TemplateProcessing repeats the sequence");
      seen = true;
      continue;
    }
    const std::string name = string_field(field(piece, "SpecialToken"), "id", "");
    Result<void> done = template_ids(section, name, spec, seen ? suffix : prefix);
    if (!done) return done;
  }
  if (!seen) return error("tokenizer.json: TemplateProcessing leaves the sequence out");
  // Of several templates the later goes around the earlier.
  spec.prefix.insert(spec.prefix.begin(), prefix.begin(), prefix.end());
  spec.suffix.insert(spec.suffix.end(), suffix.begin(), suffix.end());
  return {};
}

Result<void> read_post_processor(const Json& root, TokenizerSpec& spec) {
  Result<std::vector<const Json*>> components =
      flatten_sequence(field(root, "post_processor"), "processors");
  if (!components) return components.error();
  for (const Json* component : *components) {
    const std::string type = string_field(*component, "type", "");
    if (type == "ByteLevel") continue;  // moves offsets, not ids
    if (type != "TemplateProcessing") {
      return error(
          "tokenizer.json: post-processor \"{}\" is not supported (TemplateProcessing, ByteLevel, "
          "Sequence)",
          type
      );
    }
    Result<void> done = read_template(*component, spec);
    if (!done) return done;
  }
  return {};
}

// "bos_token" and the like: a string, or an object with "content".
std::string token_content(const Json& config, const char* name) {
  const Json& token = field(config, name);
  return token.is_object() ? string_field(token, "content", "") : string_field(config, name, "");
}

// transformers builds the post-processor of these classes from add_bos_token and add_eos_token,
// whatever tokenizer.json says.
bool builds_own_post_processor(const Json& config) {
  const std::string name = string_field(config, "tokenizer_class", "");
  return name.starts_with("LlamaTokenizer") || name.starts_with("CodeLlamaTokenizer") ||
         name.starts_with("GemmaTokenizer");
}

std::string chat_template_of(const Json& config) {
  const Json& source = field(config, "chat_template");
  if (!source.is_array()) return string_field(config, "chat_template", "");
  std::string first;
  for (const Json& named : source) {
    std::string text = string_field(named, "template", "");
    if (string_field(named, "name", "") == "default") return text;
    if (first.empty()) first = text;
  }
  return first;
}

}  // namespace

Result<TokenizerSpec> read_hf_tokenizer(std::string_view tokenizer_json) {
  Result<TokenizerJson> json = read_tokenizer_json(tokenizer_json);
  if (!json) return json.error();
  TokenizerSpec spec;
  Result<Normalizer> normalizer = Normalizer::from_json(field(json->root, "normalizer"));
  if (!normalizer) return normalizer.error();
  spec.normalizer = std::move(*normalizer);
  Result<PreTokenizer> pre_tokenizer = PreTokenizer::from_json(field(json->root, "pre_tokenizer"));
  if (!pre_tokenizer) return pre_tokenizer.error();
  spec.pre_tokenizer = std::move(*pre_tokenizer);
  Result<TokenDecoder> decoder = read_decoder(field(json->root, "decoder"));
  if (!decoder) return decoder.error();
  spec.decoder = std::move(*decoder);
  Result<void> done = read_model(*json, spec);
  if (done) done = read_added_tokens(json->root, spec);
  if (done) done = read_post_processor(json->root, spec);
  if (!done) return done.error();
  return spec;
}

void apply_tokenizer_config(const Json& config, TokenizerSpec& spec) {
  const auto set = [&](const char* name, Token& id) {
    const Token found = find_token(spec, token_content(config, name));
    if (found >= 0) id = found;
  };
  set("bos_token", spec.bos_id);
  set("eos_token", spec.eos_id);
  set("pad_token", spec.pad_id);
  if (spec.chat_template.empty()) spec.chat_template = chat_template_of(config);
  if (!builds_own_post_processor(config)) return;
  const bool add_bos = bool_field(config, "add_bos_token", true) && spec.bos_id >= 0;
  const bool add_eos = bool_field(config, "add_eos_token", false) && spec.eos_id >= 0;
  spec.prefix.assign(add_bos ? 1 : 0, spec.bos_id);
  spec.suffix.assign(add_eos ? 1 : 0, spec.eos_id);
}

}  // namespace fathom::text
