// Reads the "decoder" section of a tokenizer.json.
#include "fathom/text/json_fields.h"
#include "fathom/text/tokenizer_readers.h"

namespace fathom::text {
namespace {

constexpr std::string_view kSupported =
    "ByteLevel, Metaspace, Replace of a string, ByteFallback, Fuse, Strip of spaces on the left "
    "after Fuse, Sequence";

Error unsupported(std::string_view what) {
  return error("tokenizer.json: decoder \"{}\" is not supported ({})", what, kSupported);
}

Result<void> add_strip(const Json& json, bool fused, TokenDecoder& decoder) {
  const int64_t start = integer_field(json, "start", 0);
  const bool plain = string_field(json, "content", "") == " " && start >= 0 && start <= 16 &&
                     integer_field(json, "stop", 0) == 0;
  if (!plain || !fused) return unsupported("Strip");
  decoder.strip_left = static_cast<int>(start);
  return {};
}

Result<void> add_metaspace(const Json& json, TokenDecoder& decoder) {
  const bool prefix = bool_field(json, "add_prefix_space", true);
  const std::string scheme = string_field(json, "prepend_scheme", prefix ? "always" : "never");
  const std::string mark = string_field(json, "replacement", "▁");
  if (mark.empty()) return unsupported("Metaspace without a replacement");
  decoder.replacements.push_back({mark, " "});
  if (scheme == "never") return {};
  decoder.strip_left = INT32_MAX;
  decoder.strip_first_token_only = true;
  return {};
}

}  // namespace

Result<TokenDecoder> read_decoder(const Json& json) {
  Result<std::vector<const Json*>> components = flatten_sequence(json, "decoders");
  if (!components) return components.error();
  if (components->empty()) return unsupported("null");
  TokenDecoder decoder;
  bool fused = false;
  for (const Json* component : *components) {
    const std::string type = string_field(*component, "type", "");
    Result<void> added;
    if (type == "ByteLevel") {
      decoder.byte_level = true;
    } else if (type == "ByteFallback") {
      decoder.byte_fallback = true;
    } else if (type == "Fuse") {
      fused = true;
    } else if (type == "Strip") {
      added = add_strip(*component, fused, decoder);
    } else if (type == "Metaspace") {
      added = add_metaspace(*component, decoder);
    } else if (type == "Replace") {
      Result<SplitPattern> pattern = parse_pattern(*component, "decoder Replace");
      if (!pattern) return pattern.error();
      if (pattern->literal.empty()) return unsupported("Replace of a regular expression");
      decoder.replacements.push_back({pattern->literal, string_field(*component, "content", "")});
    } else {
      return unsupported(type);
    }
    if (!added) return added.error();
  }
  return decoder;
}

}  // namespace fathom::text
