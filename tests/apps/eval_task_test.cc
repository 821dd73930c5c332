// The checkers against the recorded replies of nano-deepseek's own task files, and against replies
// that are nearly right.
#include <gtest/gtest.h>

#include <fstream>

#include "apps/eval_task.h"

namespace fathom::apps {
namespace {

const std::string kTasks = "models/nano-deepseek/eval/";

std::vector<std::string> replies(const std::string& path) {
  std::vector<std::string> all;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    all.push_back(parse_json(line, path)->at("reply").get<std::string>());
  return all;
}

TEST(EvalTask, RecordedRepliesAreRightAndCutOnesWrong) {
  for (const char* family : {"math", "json", "tools", "strings", "calc", "recall"}) {
    const std::string path = kTasks + family + ".jsonl";
    const Result<std::vector<EvalTask>> tasks = read_tasks(path);
    ASSERT_TRUE(tasks) << tasks.error().message;
    const std::vector<std::string> recorded = replies(path);
    ASSERT_EQ(tasks->size(), recorded.size());
    for (size_t i = 0; i < recorded.size(); ++i) {
      const EvalTask& task = (*tasks)[i];
      EXPECT_TRUE(is_right(task, recorded[i])) << task.id;
      EXPECT_FALSE(is_right(task, recorded[i].substr(0, recorded[i].size() - 1))) << task.id;
      EXPECT_FALSE(is_right(task, "")) << task.id;
    }
  }
}

TEST(EvalTask, NumbersLoseTheirCommas) {
  EvalTask task{.checker = Checker::number, .answer = "1234"};
  EXPECT_TRUE(is_right(task, "so\n#### 1,234 "));
  EXPECT_FALSE(is_right(task, "1234"));
  EXPECT_FALSE(is_right(task, "#### 12345"));
}

TEST(EvalTask, JsonIsComparedByValue) {
  const EvalTask task{.checker = Checker::json, .answer = R"({"a": 1, "b": [2]})"};
  EXPECT_TRUE(is_right(task, R"({"b":[2],"a":1})"));
  EXPECT_FALSE(is_right(task, R"({"b":["2"],"a":1})"));
  EXPECT_FALSE(is_right(task, R"({"b":[2],"a":1,"c":0})"));
}

TEST(EvalTask, IntervalHoldsTheRate) {
  const Interval all = interval_95(200, 200);
  EXPECT_NEAR(all.low, 0.9812, 1e-3);
  EXPECT_NEAR(all.high, 1.0, 1e-12);
  const Interval half = interval_95(50, 100);
  EXPECT_NEAR(half.low, 0.4038, 1e-3);
  EXPECT_NEAR(half.high, 0.5962, 1e-3);
}

}  // namespace
}  // namespace fathom::apps
