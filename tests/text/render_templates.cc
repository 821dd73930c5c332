// render_templates < CASES > RESULTS: renders chat templates for scripts/compare_templates.py. A
// case is one line of JSON: {"template", "bos", "eos", "messages", "tools",
// "add_generation_prompt", "extra", "now" (seconds)}; its result is one line: {"text"} or
// {"error"}.
#include <iostream>
#include <string>

#include "fathom/text/chat_template.h"

namespace {

using fathom::Json;

Json render(const Json& test) {
  auto parsed = fathom::text::ChatTemplate::parse(
      test["template"].get<std::string>(),
      test["bos"].get<std::string>(),
      test["eos"].get<std::string>()
  );
  if (!parsed) return {{"error", parsed.error().message}};
  fathom::text::ChatInput input;
  input.messages = test["messages"];
  input.tools = test["tools"];
  input.add_generation_prompt = test["add_generation_prompt"].get<bool>();
  input.extra = test["extra"];
  input.now = std::chrono::system_clock::time_point(std::chrono::seconds(test["now"].get<long>()));
  auto text = parsed->render(input);
  if (!text) return {{"error", text.error().message}};
  return {{"text", *text}};
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    auto test = fathom::parse_json(line, "case");
    if (!test) {
      std::cerr << test.error().message << "\n";
      return 1;
    }
    std::cout << render(*test).dump() << "\n";
  }
  return 0;
}
