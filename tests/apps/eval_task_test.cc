// The checkers against the recorded replies of nano-deepseek's own task files, and against replies
// that are nearly right.
#include <gmock/gmock.h>
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

const std::string kGsm8k = "tests/apps/data/gsm8k.jsonl";

TEST(EvalTask, Gsm8kAnswersAreTheNumberBehindTheMark) {
  const Result<std::vector<EvalTask>> tasks = read_tasks(kGsm8k);
  ASSERT_TRUE(tasks) << tasks.error().message;
  ASSERT_EQ(tasks->size(), 3u);
  EXPECT_EQ((*tasks)[0].answer, "36");
  EXPECT_EQ((*tasks)[1].answer, "3000");
  EXPECT_EQ((*tasks)[2].answer, "-3");
  EXPECT_EQ((*tasks)[0].family, "gsm8k");
  for (const EvalTask& task : *tasks) EXPECT_TRUE(is_right(task, task.solution)) << task.solution;
  const EvalTask& barrels = (*tasks)[1];
  EXPECT_TRUE(is_right(barrels, " 2 * 1500\n#### $3,000. That is all"));
  EXPECT_FALSE(is_right(barrels, "3000"));
  EXPECT_FALSE(is_right(barrels, "#### 300"));
  EXPECT_FALSE(is_right(barrels, "#### 30000"));
  EXPECT_FALSE(is_right(barrels, "#### 3000\n#### 3001"));
  EXPECT_FALSE(is_right((*tasks)[2], "#### 3"));
  EXPECT_FALSE(is_right((*tasks)[2], "#### -"));
}

TEST(EvalTask, ShotsComeBeforeTheQuestion) {
  std::vector<EvalTask> tasks = *read_tasks(kGsm8k);
  const std::vector<EvalTask> shots(tasks.begin(), tasks.begin() + 2);
  tasks.erase(tasks.begin(), tasks.begin() + 2);
  ASSERT_TRUE(add_shots(tasks, shots));
  EXPECT_EQ(
      tasks[0].prompt,
      "Question: Mia has 3 boxes of 12 pencils. How many pencils has she?\n"
      "Answer: She has 3*12=<<3*12=36>>36 pencils.\n#### 36\n\n"
      "Question: A barrel holds 1,500 litres. How much do 2 barrels hold?\n"
      "Answer: They hold 2*1500=<<2*1500=3000>>3000 litres.\n#### 3,000\n\n"
      "Question: It was 2 degrees and fell by 5. What does the thermometer show?\nAnswer:"
  );
  std::vector<EvalTask> others = *read_tasks(kTasks + "math.jsonl");
  const Result<void> wrong = add_shots(others, shots);
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.error().message.find("GSM8K"), std::string::npos);
  EXPECT_FALSE(add_shots(tasks, others).ok());
}

TEST(EvalTask, BadFilesAreNamedWithTheirLine) {
  const auto message = [](const std::string& text) {
    const std::string path = ::testing::TempDir() + "tasks.jsonl";
    std::ofstream(path) << text;
    const Result<std::vector<EvalTask>> tasks = read_tasks(path);
    EXPECT_FALSE(tasks.ok()) << text;
    return tasks.ok() ? "" : tasks.error().message;
  };
  using ::testing::HasSubstr;
  const std::string good = R"({"question": "1+1?", "answer": "#### 2"})";
  EXPECT_THAT(message(""), HasSubstr("no tasks"));
  EXPECT_THAT(message(good + "\nnot json\n"), HasSubstr("tasks.jsonl:2"));
  EXPECT_THAT(message(good + "\n[1]\n"), HasSubstr("tasks.jsonl:2: not an object"));
  EXPECT_THAT(message(R"({"question": "1+1?", "answer": "2"})"), HasSubstr("#### number"));
  EXPECT_THAT(message(R"({"question": 3, "answer": "#### 2"})"), HasSubstr("question"));
  EXPECT_THAT(message(R"({"answer": "#### 2"})"), HasSubstr("neither messages nor a question"));
  EXPECT_THAT(
      message(R"({"messages": [], "answer": "x", "checker": "like"})"), HasSubstr("checker 'like'")
  );
  const Result<std::vector<EvalTask>> none = read_tasks("no/such/file");
  ASSERT_FALSE(none.ok());
  EXPECT_THAT(none.error().message, HasSubstr("no/such/file"));
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
