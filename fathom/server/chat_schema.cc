// The body of /v1/chat/completions.
#include <climits>

#include "fathom/server/openai_schema.h"
#include "fathom/server/sampling_schema.h"

namespace fathom::server {
namespace {

Error at(std::string pointer, std::string message) {
  return {std::move(message), std::move(pointer)};
}

// The text of a list of content parts, joined by spaces as SGLang joins them.
Result<std::string> join_parts(const Json& parts, const std::string& pointer) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string here = fmt::format("{}/{}", pointer, i);
    Fields part(parts[i], here);
    std::string type;
    std::string piece;
    part.read("type", type);
    if (!part.failed() && type != "text") {
      return at(
          here + "/type", fmt::format("content of type '{}' is not supported: only 'text' is", type)
      );
    }
    part.read("text", piece);
    if (!part.failed() && !part.find("text")) part.fail("text", "'text' is missing");
    if (part.failed()) return part.error();
    if (i > 0) text += ' ';
    text += piece;
  }
  return text;
}

// Arguments of earlier tool calls come as JSON in a string; templates walk them as an object.
Result<void> parse_tool_arguments(Json& message, const std::string& pointer) {
  if (!message.contains("tool_calls") || message["tool_calls"].is_null()) return {};
  Json& calls = message["tool_calls"];
  if (!calls.is_array()) return at(pointer + "/tool_calls", "'tool_calls' must be a list");
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string here = fmt::format("{}/tool_calls/{}", pointer, i);
    if (!calls[i].is_object() || !calls[i].contains("function") ||
        !calls[i]["function"].is_object()) {
      return at(here, "a tool call must be an object with a 'function'");
    }
    Json& function = calls[i]["function"];
    if (!function.contains("arguments") || !function["arguments"].is_string()) continue;
    auto arguments =
        parse_json(function["arguments"].get_ref<const std::string&>(), "arguments", {.depth = 64});
    if (arguments.ok()) function["arguments"] = std::move(*arguments);
  }
  return {};
}

Result<Json> read_message(const Json& message, const std::string& pointer) {
  Fields fields(message, pointer);
  std::string role;
  fields.read("role", role);
  if (!fields.failed() && role.empty()) fields.fail("role", "'role' is missing");
  if (fields.failed()) return fields.error();
  Json out = message;
  const Json* content = fields.find("content");
  if (content && content->is_array()) {
    auto text = join_parts(*content, pointer + "/content");
    if (!text.ok()) return text.error();
    out["content"] = std::move(*text);
  } else if (content && !content->is_string()) {
    return at(
        pointer + "/content",
        fmt::format("'content' must be a string or a list of parts, got {}", quoted(*content))
    );
  } else if (!content) {
    if (role != "assistant") return at(pointer + "/content", "'content' is missing");
    out["content"] = "";
  }
  if (auto done = parse_tool_arguments(out, pointer); !done.ok()) return done.error();
  return out;
}

void read_messages(Fields& fields, Json& out) {
  const Json* messages = fields.find("messages");
  if (!messages || !messages->is_array() || messages->empty()) {
    return fields.fail("messages", "'messages' must be a list of at least one message");
  }
  out = Json::array();
  for (size_t i = 0; i < messages->size(); ++i) {
    auto message = read_message(messages->at(i), fmt::format("/messages/{}", i));
    if (!message.ok()) return fields.adopt(message.error());
    out.push_back(std::move(*message));
  }
}

void read_tools(Fields& fields, text::ChatInput& input) {
  const Json* choice = fields.find("tool_choice");
  if (choice && *choice != "auto" && *choice != "none") {
    fields.fail(
        "tool_choice",
        fmt::format(
            "'tool_choice' may be \"auto\" or \"none\", got {}: forcing a call needs "
            "constrained decoding, which is not available",
            quoted(*choice)
        )
    );
  }
  const Json* tools = fields.find("tools");
  if (!tools) return;
  if (!tools->is_array()) return fields.fail("tools", "'tools' must be a list");
  for (size_t i = 0; i < tools->size(); ++i) {
    const std::string here = fmt::format("/tools/{}", i);
    Fields tool(tools->at(i), here);
    const Json* function = tool.find("function");
    if (!tool.failed() && !function) tool.fail("function", "'function' is missing");
    if (tool.failed()) return fields.adopt(tool.error());
    Fields inner(*function, here + "/function");
    std::string name;
    inner.read("name", name);
    if (!inner.failed() && name.empty()) inner.fail("name", "'name' is missing");
    if (inner.failed()) return fields.adopt(inner.error());
  }
  if (!tools->empty() && !(choice && *choice == "none")) input.tools = *tools;
}

void read_template_options(Fields& fields, ChatBody& out) {
  fields.read("add_generation_prompt", out.input.add_generation_prompt);
  fields.read("continue_final_message", out.continue_final_message);
  if (out.continue_final_message) {
    out.input.add_generation_prompt = false;
    const Json& messages = out.input.messages;
    if (!fields.failed() && messages.back()["role"] != "assistant") {
      fields.fail(
          "continue_final_message", "the last message must be the assistant's to be continued"
      );
    }
  }
  Json extra = Json::object();
  if (const Json* kwargs = fields.find("chat_template_kwargs")) {
    if (!kwargs->is_object()) {
      return fields.fail("chat_template_kwargs", "'chat_template_kwargs' must be an object");
    }
    extra = *kwargs;
  }
  if (const Json* effort = fields.find("reasoning_effort")) {
    if (!effort->is_string() && !effort->is_number()) {
      return fields.fail("reasoning_effort", "'reasoning_effort' must be a string or a number");
    }
    if (!extra.contains("reasoning_effort")) extra["reasoning_effort"] = *effort;
  }
  if (!extra.empty()) out.input.extra = std::move(extra);
  if (const Json* documents = fields.find("documents")) {
    if (!documents->is_array()) return fields.fail("documents", "'documents' must be a list");
    out.input.documents = *documents;
  }
}

void read_logprobs(Fields& fields, const SchemaLimits& limits, plan::SamplingParams& sampling) {
  bool wanted = false;
  int top = 0;
  fields.read("logprobs", wanted);
  fields.read("top_logprobs", top, 0, limits.max_logprobs);
  if (top > 0 && !wanted) fields.fail("top_logprobs", "'top_logprobs' needs 'logprobs': true");
  if (wanted) sampling.logprobs = top;
}

void refuse_chat_features(Fields& fields) {
  if (const Json* format = fields.find("response_format")) {
    if (!format->is_object() || format->value("type", Json()) != "text") {
      fields.fail(
          "response_format",
          fmt::format(
              "'response_format' may only be {{\"type\": \"text\"}}, got {}: constrained "
              "decoding is not available",
              quoted(*format)
          )
      );
    }
  }
  fields.refuse("functions", "use 'tools'");
  fields.refuse("audio", "this server makes text only");
  fields.refuse("prediction", "predicted outputs are not available");
  fields.refuse("web_search_options", "this server searches nothing");
}

}  // namespace

Result<ChatBody> parse_chat(const Json& body, const SchemaLimits& limits) {
  Fields fields(body, "");
  ChatBody out;
  GenerationBody& generation = out.generation;
  generation.sampling = limits.defaults;
  read_messages(fields, out.input.messages);
  read_tools(fields, out.input);
  read_template_options(fields, out);
  read_sampling(fields, limits, generation.sampling);
  read_logprobs(fields, limits, generation.sampling);
  fields.read("max_tokens", generation.sampling.max_new_tokens, 1, INT_MAX);
  fields.read("max_completion_tokens", generation.sampling.max_new_tokens, 1, INT_MAX);
  read_generation(fields, limits, generation);
  refuse_chat_features(fields);
  if (!fields.failed() && generation.rids.size() > 1)
    fields.fail("rid", "one chat takes one 'rid'");
  if (fields.failed()) return fields.error();
  return out;
}

}  // namespace fathom::server
