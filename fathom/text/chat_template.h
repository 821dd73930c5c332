// A model's chat template: messages and tools to the prompt's text. Templates are Jinja, as
// transformers runs them (trim_blocks, lstrip_blocks, loop controls, generation blocks, tojson,
// raise_exception, strftime_now); they come with the model's files and are not trusted: work, depth
// and memory of a rendering are bounded.
//
// Threads: immutable after parse; render may be called from any thread at once.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "fathom/base/json.h"
#include "fathom/base/result.h"

namespace fathom::text {

// What a rendering may spend; beyond it, it ends with an Error.
struct RenderLimits {
  int64_t steps = 20'000'000;               // nodes evaluated and elements or bytes handled
  size_t output_bytes = size_t{64} << 20;   // the prompt
  size_t memory_bytes = size_t{256} << 20;  // values made on the way
};

// The template's variables. Null values are None, as transformers passes them.
struct ChatInput {
  Json messages = Json::array();
  Json tools = nullptr;
  Json documents = nullptr;
  bool add_generation_prompt = true;
  // Further variables by name ("enable_thinking", "date_string" ...): an object; null: none. They
  // win over the names above.
  Json extra = nullptr;
  // What strftime_now sees, in UTC.
  std::chrono::system_clock::time_point now = std::chrono::system_clock::now();
};

class ChatTemplate {
 public:
  // `bos` and `eos` are the spellings behind bos_token and eos_token; "" leaves them as empty
  // strings. A syntax error, or a tag, filter or test that does not exist, is an Error with its
  // line.
  static Result<ChatTemplate> parse(std::string_view source, std::string bos, std::string eos);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // The prompt; encode it with add_special_tokens = false. An Error carries the template's own
  // raise_exception message, or what went wrong and the line.
  Result<std::string> render(const ChatInput& input, RenderLimits limits = {}) const;

  const std::string& source() const;

 private:
  struct Parts;
  explicit ChatTemplate(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace fathom::text
