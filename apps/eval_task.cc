#include "apps/eval_task.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string_view>
#include <utility>

namespace fathom::apps {
namespace {

constexpr std::string_view kCalls = "<｜tool▁calls▁begin｜>";
constexpr std::string_view kCallsEnd = "<｜tool▁calls▁end｜>";
constexpr std::string_view kCall = "<｜tool▁call▁begin｜>";
constexpr std::string_view kCallEnd = "<｜tool▁call▁end｜>";
constexpr std::string_view kHead = "function<｜tool▁sep｜>";
constexpr std::string_view kOpen = "```json\n";
constexpr std::string_view kClose = "\n```";

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t from = text.find_first_not_of(kBlank);
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(kBlank) - from + 1);
}

// What stands after the last "####", without commas; "" when there is none.
std::string final_number(std::string_view text) {
  const size_t mark = text.rfind("####");
  if (mark == std::string_view::npos) return {};
  std::string number(trimmed(text.substr(mark + 4)));
  std::erase(number, ',');
  return number;
}

// The number that `text` begins with, as GSM8K writes them, without commas; "" when it is none.
std::string leading_number(std::string_view text) {
  std::string number;
  for (const char c : text) {
    if (c >= '0' && c <= '9')
      number += c;
    else if ((c == '-' && number.empty()) || (c == '.' && number.find('.') == std::string::npos))
      number += c;
    else if (c != ',' && !(c == '$' && number.empty()))
      break;
  }
  if (number.ends_with('.')) number.pop_back();
  return number == "-" ? "" : number;
}

std::string gsm8k_answer(std::string_view text) {
  const size_t mark = text.rfind("####");
  return mark == std::string_view::npos ? "" : leading_number(trimmed(text.substr(mark + 4)));
}

// One call, between its marks, as {name, arguments}; null when malformed.
Json parse_call(std::string_view call) {
  if (!call.starts_with(kHead)) return nullptr;
  call.remove_prefix(kHead.size());
  const size_t line = call.find('\n');
  if (line == std::string_view::npos) return nullptr;
  const std::string name(call.substr(0, line));
  std::string_view body = trimmed(call.substr(line + 1));
  if (!body.starts_with(kOpen) || !body.ends_with(kClose)) return nullptr;
  body = body.substr(kOpen.size(), body.size() - kOpen.size() - kClose.size());
  const Result<Json> arguments = parse_json(body, "arguments");
  return arguments ? Json{{"name", name}, {"arguments", *arguments}} : Json(nullptr);
}

// All calls of a reply in order; null when it is anything but calls.
Json parse_calls(std::string_view text) {
  if (!text.starts_with(kCalls) || !text.ends_with(kCallsEnd)) return nullptr;
  text = text.substr(kCalls.size(), text.size() - kCalls.size() - kCallsEnd.size());
  Json calls = Json::array();
  while (!trimmed(text).empty()) {
    const size_t begin = text.find(kCall), end = text.find(kCallEnd);
    if (begin == std::string_view::npos || end == std::string_view::npos || end < begin)
      return nullptr;
    calls.push_back(parse_call(text.substr(begin + kCall.size(), end - begin - kCall.size())));
    if (calls.back().is_null()) return nullptr;
    text.remove_prefix(end + kCallEnd.size());
  }
  return calls;
}

// Equal values; the order of an object's keys says nothing.
bool same_value(const Json& a, const Json& b) {
  if (a.size() != b.size()) return false;
  if (a.is_object() && b.is_object()) {
    for (const auto& [key, value] : a.items()) {
      if (!b.contains(key) || !same_value(value, b[key])) return false;
    }
    return true;
  }
  if (!a.is_array() || !b.is_array()) return a == b;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!same_value(a[i], b[i])) return false;
  }
  return true;
}

bool same_json(const std::string& a, const std::string& b) {
  const Result<Json> left = parse_json(a, "reply"), right = parse_json(b, "answer");
  return left && right && same_value(*left, *right);
}

Result<Checker> parse_checker(const std::string& name) {
  if (name == "exact") return Checker::exact;
  if (name == "number") return Checker::number;
  if (name == "gsm8k") return Checker::gsm8k;
  if (name == "json") return Checker::json;
  if (name == "tool_call") return Checker::tool_call;
  return error("checker '{}'; supported: exact, number, gsm8k, json, tool_call", name);
}

Result<EvalTask> parse_task(const Json& json, int line) {
  EvalTask task;
  task.id = json.value("id", fmt::format("{}", line));
  const auto text_of = [&](const char* key) {
    return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : "";
  };
  task.answer = text_of("answer");
  if (task.answer.empty()) return error("answer is missing");
  if (json.contains("question")) {
    task.family = "gsm8k";
    task.question = text_of("question");
    if (task.question.empty()) return error("question is not a text");
    task.messages = Json::array({{{"role", "user"}, {"content", task.question}}});
    task.checker = Checker::gsm8k;
    task.solution = std::exchange(task.answer, gsm8k_answer(task.answer));
    if (task.answer.empty()) return error("the answer has no '#### number'");
    return task;
  }
  if (!json.contains("messages") || !json["messages"].is_array())
    return error("neither messages nor a question");
  task.family = json.value("family", "tasks");
  task.messages = json["messages"];
  task.tools = json.value("tools", Json(nullptr));
  const Result<Checker> checker = parse_checker(text_of("checker"));
  if (!checker) return checker.error();
  task.checker = *checker;
  return task;
}

}  // namespace

Result<std::vector<EvalTask>> read_tasks(const std::string& path) {
  std::ifstream file(path);
  if (!file) return error("{}: cannot be opened", path);
  std::vector<EvalTask> tasks;
  std::string text;
  for (int line = 1; std::getline(file, text); ++line) {
    if (trimmed(text).empty()) continue;
    const Result<Json> json = parse_json(text, fmt::format("{}:{}", path, line));
    if (!json) return json.error();
    if (!json->is_object()) return error("{}:{}: not an object", path, line);
    Result<EvalTask> task = parse_task(*json, line);
    if (!task) return error("{}:{}: {}", path, line, task.error().message);
    tasks.push_back(std::move(*task));
  }
  if (tasks.empty()) return error("{}: no tasks", path);
  return tasks;
}

Result<void> add_shots(std::vector<EvalTask>& tasks, std::span<const EvalTask> shots) {
  std::string head;
  for (const EvalTask& shot : shots) {
    if (shot.question.empty())
      return error("{} {}: an example without a question", shot.family, shot.id);
    head += fmt::format("Question: {}\nAnswer: {}\n\n", shot.question, shot.solution);
  }
  for (EvalTask& task : tasks) {
    if (task.question.empty())
      return error("{} {}: examples are put before GSM8K's questions alone", task.family, task.id);
    task.prompt = fmt::format("{}Question: {}\nAnswer:", head, task.question);
  }
  return {};
}

bool is_right(const EvalTask& task, const std::string& text) {
  switch (task.checker) {
    case Checker::exact:
      return trimmed(text) == trimmed(task.answer);
    case Checker::number:
      return !task.answer.empty() && final_number(text) == task.answer;
    case Checker::gsm8k:
      return gsm8k_answer(text) == task.answer;
    case Checker::json:
      return same_json(text, task.answer);
    case Checker::tool_call:
      break;
  }
  const Json calls = parse_calls(text);
  const Result<Json> wanted = parse_json(task.answer, "answer");
  return !calls.is_null() && wanted && same_value(calls, *wanted);
}

Interval interval_95(int right, int n) {
  if (n == 0) return {0, 1};
  constexpr double z = 1.959963985;
  const double count = n, rate = right / count;
  const double centre = (rate + z * z / (2 * count)) / (1 + z * z / count);
  const double half =
      z / (1 + z * z / count) * std::sqrt(rate * (1 - rate) / count + z * z / (4 * count * count));
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

}  // namespace fathom::apps
