// One case of an evaluation file, and whether an answer to it is right.
#pragma once

#include <string>
#include <vector>

#include "fathom/base/json.h"
#include "fathom/base/result.h"

namespace fathom::apps {

enum class Checker : uint8_t {
  exact,      // the text, trimmed
  number,     // what stands after the last "####", commas left out
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
};

// A JSON Lines file of objects with messages, tools, checker and answer; or of GSM8K's question and
// answer. The Error names the line.
Result<std::vector<EvalTask>> read_tasks(const std::string& path);

// `text` is the whole reply, special tokens included, without the end token.
bool is_right(const EvalTask& task, const std::string& text);

// The 95 % interval of the rate behind `right` of `n` (Wilson).
struct Interval {
  double low = 0, high = 0;
};
Interval interval_95(int right, int n);

}  // namespace fathom::apps
