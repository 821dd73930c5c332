// What bench serving prints and stores of a load.
#include "apps/bench_serving_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fathom::apps {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

Load load_of_two() {
  LoadResult good{.success = true, .text = "abc", .output_tokens = 11, .ttft = 0.5, .latency = 1.5};
  good.itls = {0.25, 0.75};
  LoadResult bad{.error = "refused"};
  return {.results = {good, bad}, .duration = 2.0};
}

const std::vector<BenchPrompt> kPrompts{{.input_tokens = 20}, {.input_tokens = 30}};

TEST(BenchServingReport, CountsWhatSucceeded) {
  const Json report = report_json({.backend = "sglang"}, kPrompts, load_of_two(), false);
  EXPECT_EQ(report["completed"], 1);
  EXPECT_EQ(report["failed"], 1);
  EXPECT_EQ(report["total_input_tokens"], 20);
  EXPECT_EQ(report["total_output_tokens"], 11);
  EXPECT_DOUBLE_EQ(report["output_throughput"].get<double>(), 5.5);
  EXPECT_DOUBLE_EQ(report["mean_tpot_ms"].get<double>(), 100.0);
  EXPECT_DOUBLE_EQ(report["mean_ttft_ms"].get<double>(), 500.0);
}

TEST(BenchServingReport, SaysHowDraftsFared) {
  const Json report = report_json(
      {.backend = "sglang", .accept_length = 2.5, .accept_rate = 0.75},
      kPrompts,
      load_of_two(),
      false
  );
  EXPECT_EQ(report["accept_length"], 2.5);
  EXPECT_EQ(report["accept_rate"], 0.75);
  EXPECT_THAT(report_text(report), ContainsRegex("Accept length: +2.50"));
  EXPECT_THAT(report_text(report), ContainsRegex("Accept rate: +0.75"));
  const Json plain = report_json({.backend = "sglang"}, kPrompts, load_of_two(), false);
  EXPECT_TRUE(plain["accept_length"].is_null());
  EXPECT_THAT(report_text(plain), Not(HasSubstr("Accept")));
}

}  // namespace
}  // namespace fathom::apps
