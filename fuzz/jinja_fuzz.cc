// A hostile chat template: parsing and rendering must end in a text or an Error within the limits.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fathom/text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fathom::Json;
  static const Json kMessages = Json::parse(
      R"([{"role":"system","content":"Be brief."},{"role":"user","content":"h\u00e9llo\n<b>"},)"
      R"({"role":"assistant","content":null,"tool_calls":[{"type":"function","id":"abcdefghi",)"
      R"("function":{"name":"f","arguments":{"x":[1,2.5,null,true]}}}]},)"
      R"({"role":"tool","content":"7"}])"
  );
  static const Json kTools =
      Json::parse(R"([{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}])"
      );
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = fathom::text::ChatTemplate::parse(source, "<s>", "</s>");
  if (!parsed.ok()) return 0;
  const fathom::text::RenderLimits limits{
      .steps = 100'000, .output_bytes = 1 << 20, .memory_bytes = 8 << 20};
  const auto text = parsed->render({.messages = kMessages, .tools = kTools}, limits);
  if (text.ok() && text->size() > limits.output_bytes) std::abort();
  return 0;
}
