// One case of an evaluation file, and whether an answer to it is right.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "fathom/base/json.h"
#include "fathom/base/result.h"

namespace fathom::apps {

enum class Checker : uint8_t {
  exact,      // the text, trimmed
  number,     // what stands after the last "####", commas left out
  gsm8k,      // the number after the last "####", commas left out, whatever follows it
  json,       // parsed values are equal
  tool_call,  // DeepSeek's call markup: names and parsed arguments are equal, in order
};

struct EvalTask {
  std::string id;
  std::string family;
  Json messages;
  Json tools;
  Checker checker = Checker::exact;
  std::string answer;
  // Of GSM8K's files: the question and its worked answer.
  std::string question, solution;
  std::string prompt;  // plain text that is asked instead of messages; "" = the messages
};

// A JSON Lines file of objects with messages, tools, checker and answer; or of GSM8K's question and
// answer (https://github.com/openai/grade-school-math). The Error names the line.
Result<std::vector<EvalTask>> read_tasks(const std::string& path);

// The prompts that GSM8K is usually asked with: "Question: ...\nAnswer:" behind the worked `shots`.
// A reply ends where the next question would begin (kShotStop). The Error names a task or shot of
// another format.
Result<void> add_shots(std::vector<EvalTask>& tasks, std::span<const EvalTask> shots);
inline constexpr const char* kShotStop = "Question:";

// `text` is the whole reply, special tokens included, without the end token.
bool is_right(const EvalTask& task, const std::string& text);

// The 95 % interval of the rate behind `right` of `n` (Wilson).
struct Interval {
  double low = 0, high = 0;
};
Interval interval_95(int right, int n);

}  // namespace fathom::apps
