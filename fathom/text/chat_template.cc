#include "fathom/text/chat_template.h"

#include "fathom/text/jinja/heap.h"
#include "fathom/text/jinja/interpreter.h"
#include "fathom/text/jinja/parser.h"
#include "fathom/text/utf8.h"

namespace fathom::text {
namespace {

using jinja::Heap;
using jinja::Value;

constexpr size_t kMaxSourceBytes = 1 << 20;
constexpr int kMaxJsonDepth = 150;

// Values are views of the Json's strings: it outlives the rendering. Broken UTF-8 is repaired.
Value to_value(const Json& json, Heap& heap, int depth = 0) {
  if (depth > kMaxJsonDepth) {
    throw jinja::TemplateError(fmt::format("messages or tools nest deeper than {}", kMaxJsonDepth));
  }
  heap.spend(1);
  switch (json.type()) {
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_integer:
      return json.get<int64_t>();
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() <= INT64_MAX) return json.get<int64_t>();
      return json.get<double>();
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string: {
      const std::string& text = json.get_ref<const std::string&>();
      if (is_valid_utf8(text)) return std::string_view(text);
      return heap.copy(replace_invalid_utf8(text));
    }
    case Json::value_t::array: {
      jinja::List* list = heap.list();
      for (const Json& item : json) heap.append(*list, to_value(item, heap, depth + 1));
      return list;
    }
    case Json::value_t::object: {
      // Keys of an object differ already: no need to look for each among the others.
      jinja::Dict* dict = heap.dict();
      for (const auto& [key, value] : json.items()) {
        heap.reserve(4 * sizeof(Value));
        dict->entries.emplace_back(heap.copy(key), to_value(value, heap, depth + 1));
      }
      return dict;
    }
    default:
      return jinja::None{};
  }
}

void set_variables(
    const ChatInput& input,
    const std::string& bos,
    const std::string& eos,
    Heap& heap,
    jinja::Interpreter& interpreter
) {
  interpreter.set_global("bos_token", std::string_view(bos));
  interpreter.set_global("eos_token", std::string_view(eos));
  interpreter.set_global("messages", to_value(input.messages, heap));
  interpreter.set_global("add_generation_prompt", input.add_generation_prompt);
  interpreter.set_global("tools", to_value(input.tools, heap));
  interpreter.set_global("documents", to_value(input.documents, heap));
  if (!input.extra.is_object()) return;
  for (const auto& [name, value] : input.extra.items()) {
    interpreter.set_global(heap.copy(name), to_value(value, heap));
  }
}

}  // namespace

struct ChatTemplate::Parts {
  std::string source;
  std::string bos, eos;
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::parse(
    std::string_view source, std::string bos, std::string eos
) {
  if (source.size() > kMaxSourceBytes) {
    return error("chat template: {} bytes, at most {}", source.size(), kMaxSourceBytes);
  }
  auto parts = std::make_unique<Parts>();
  parts->source = replace_invalid_utf8(source);
  parts->bos = std::move(bos);
  parts->eos = std::move(eos);
  try {
    parts->body = jinja::parse(parts->source);
  } catch (const jinja::TemplateError& e) {
    return error("chat template: {}", e.what());
  }
  return ChatTemplate(std::move(parts));
}

Result<std::string> ChatTemplate::render(const ChatInput& input, RenderLimits limits) const {
  Heap heap(limits.steps, limits.memory_bytes);
  jinja::Interpreter interpreter(heap, limits.output_bytes, input.now);
  try {
    set_variables(input, parts_->bos, parts_->eos, heap, interpreter);
    return interpreter.render(parts_->body);
  } catch (const jinja::TemplateError& e) {
    return error("chat template: {}", e.what());
  }
}

const std::string& ChatTemplate::source() const {
  return parts_->source;
}

}  // namespace fathom::text
