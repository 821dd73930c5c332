// The scheduler turned by hand, one rule at a time. Random histories against a simulated device are
// in tests/engine.
#include "fathom/sched/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace fathom::sched {
namespace {

using plan::FinishReason;
using testing::ElementsAre;

SchedulerOptions small_options() {
  SchedulerOptions options;
  options.pages = 33;
  options.page_size = 4;
  options.max_running = 4;
  options.context_length = 100;
  options.step_tokens = 16;
  options.mixed_step_tokens = 16;
  options.chunk_floor = 8;
  return options;
}

std::shared_ptr<plan::Request> request_of(int prompt, int most) {
  auto request = std::make_shared<plan::Request>();
  request->prompt.resize(static_cast<size_t>(prompt));
  std::iota(request->prompt.begin(), request->prompt.end(), 100);
  request->sampling.max_new_tokens = most;
  return request;
}

// Every emitting row of `batch` adds the token `token`.
plan::StepResult result_of(const plan::Batch& batch, Token token) {
  plan::StepResult result{.id = batch.id, .incarnation = batch.incarnation};
  for (const plan::Row& row : batch.rows) {
    result.rows.push_back(
        {.start = row.start,
         .accepted = row.emits,
         .token_begin = static_cast<int32_t>(result.tokens.size())}
    );
    if (row.emits) result.tokens.push_back(token);
  }
  return result;
}

class SchedulerTest : public testing::Test {
 protected:
  // Plans and commits one step, in which every emitting row adds `token`; false when nothing is
  // due.
  bool step(Token token) {
    if (!scheduler.plan(batch)) return false;
    plan::StepResult result = result_of(batch, token);
    scheduler.commit(result);
    scheduler.check();
    scheduler.take_outputs(outputs);
    return true;
  }

  Scheduler scheduler{small_options()};
  plan::Batch batch;
  plan::Outputs outputs;
};

TEST_F(SchedulerTest, PrefillsInChunksThenDecodesToTheLimit) {
  ASSERT_FALSE(scheduler.add(request_of(20, 3), 1).refused());
  ASSERT_TRUE(step(7));
  ASSERT_EQ(batch.rows.size(), 1u);
  EXPECT_EQ(batch.rows[0].count, 16);
  EXPECT_FALSE(batch.rows[0].emits);
  EXPECT_EQ(batch.resets.size(), 1u);
  EXPECT_TRUE(outputs.empty());
  ASSERT_TRUE(step(7));
  EXPECT_THAT(batch.tokens, ElementsAre(116, 117, 118, 119));
  EXPECT_TRUE(batch.rows[0].emits);
  EXPECT_TRUE(batch.resets.empty());
  ASSERT_EQ(outputs.records.size(), 1u);
  EXPECT_THAT(outputs.tokens, ElementsAre(7));
  ASSERT_TRUE(step(8));
  EXPECT_THAT(batch.tokens, ElementsAre(7));
  EXPECT_EQ(batch.rows[0].start, 20);
  ASSERT_TRUE(step(9));
  ASSERT_EQ(outputs.records.size(), 1u);
  EXPECT_EQ(outputs.records[0].first, 2);
  EXPECT_EQ(outputs.records[0].finish, FinishReason::length);
  EXPECT_EQ(outputs.records[0].usage.completion_tokens, 3);
  EXPECT_FALSE(step(0));
  EXPECT_TRUE(scheduler.quiet());
  EXPECT_EQ(scheduler.stats().pages_tree, 5);
}

TEST_F(SchedulerTest, StopTokenEndsAndTheNextOneFindsThePrompt) {
  auto first = request_of(17, 10);
  first->sampling.stop_ids = {5};
  first->sampling.min_new_tokens = 1;
  ASSERT_FALSE(scheduler.add(first, 1).refused());
  ASSERT_TRUE(step(5));
  ASSERT_TRUE(step(5));  // the first 5 is below min_new_tokens
  EXPECT_FALSE(outputs.empty());
  ASSERT_TRUE(step(5));
  ASSERT_EQ(outputs.records.size(), 1u);
  EXPECT_EQ(outputs.records[0].finish, FinishReason::stop);
  EXPECT_EQ(outputs.records[0].stop_token, 5);

  ASSERT_FALSE(scheduler.add(request_of(17, 1), 2).refused());
  ASSERT_TRUE(step(6));
  EXPECT_EQ(batch.rows[0].start, 16);
  EXPECT_EQ(batch.rows[0].count, 1);
  EXPECT_EQ(outputs.records.at(0).usage.cached_tokens, 16);
}

TEST_F(SchedulerTest, CancelEndsOnceAndGivesAllBack) {
  ASSERT_FALSE(scheduler.add(request_of(30, 50), 1).refused());
  ASSERT_TRUE(scheduler.plan(batch));
  scheduler.cancel(1, FinishReason::abort);
  scheduler.cancel(1, FinishReason::abort);
  scheduler.take_outputs(outputs);
  ASSERT_EQ(outputs.records.size(), 1u);
  EXPECT_EQ(outputs.records[0].finish, FinishReason::abort);
  EXPECT_FALSE(scheduler.quiet());  // a row is in flight
  plan::StepResult result = result_of(batch, 1);
  scheduler.commit(result);
  EXPECT_TRUE(scheduler.quiet());
  EXPECT_EQ(scheduler.stats().wasted_rows, 1);
  EXPECT_EQ(scheduler.stats().pages_free, 32);
  EXPECT_EQ(scheduler.stats().ignored_events, 1);
}

TEST_F(SchedulerTest, RefusesWhatCannotFit) {
  using plan::RefusalKind;
  EXPECT_EQ(scheduler.add(request_of(99, 2), 1).kind, RefusalKind::too_long);
  EXPECT_EQ(scheduler.add(request_of(0, 2), 1).kind, RefusalKind::invalid);
  EXPECT_EQ(scheduler.add(request_of(9, 0), 1).kind, RefusalKind::invalid);
  EXPECT_FALSE(scheduler.add(request_of(98, 2), 1).refused());
  scheduler.drain();
  EXPECT_EQ(scheduler.add(request_of(9, 2), 2).kind, RefusalKind::draining);
}

TEST_F(SchedulerTest, EmbeddingIsOnePrefill) {
  auto request = request_of(9, -1);
  request->embedding = true;
  ASSERT_FALSE(scheduler.add(request, 1).refused());
  ASSERT_TRUE(scheduler.plan(batch));
  ASSERT_EQ(batch.rows.size(), 1u);
  EXPECT_TRUE(batch.rows[0].embeds && batch.rows[0].emits);
  plan::StepResult result{.id = batch.id, .rows = {{.start = 0}}, .embeddings = {{1.0f, 2.0f}}};
  scheduler.commit(result);
  scheduler.take_outputs(outputs);
  ASSERT_EQ(outputs.records.size(), 1u);
  EXPECT_EQ(outputs.records[0].finish, FinishReason::stop);
  ASSERT_EQ(outputs.records[0].embedding, 0);
  EXPECT_THAT(outputs.embeddings[0], ElementsAre(1.0f, 2.0f));
  EXPECT_TRUE(scheduler.quiet());
}

TEST_F(SchedulerTest, OtherChoicesWaitForThePromptAndShareIt) {
  auto request = request_of(17, 2);
  request->n = 3;
  ASSERT_FALSE(scheduler.add(request, 1).refused());
  ASSERT_TRUE(step(1));
  EXPECT_EQ(batch.rows.size(), 1u);
  ASSERT_TRUE(step(1));
  EXPECT_EQ(batch.rows.size(), 1u);
  ASSERT_TRUE(step(1));
  ASSERT_EQ(batch.rows.size(), 3u);
  EXPECT_FALSE(batch.rows[0].chunk);
  EXPECT_EQ(batch.rows[1].start, 16);
  EXPECT_EQ(batch.rows[2].start, 16);
  EXPECT_EQ(batch.pages[0], batch.pages[static_cast<size_t>(batch.page_begin[1])]);
}

TEST_F(SchedulerTest, PagesOfAFailedSequenceNeverEnterTheTree) {
  for (const bool healthy : {false, true}) {
    auto request = request_of(8, 30);
    request->cache_salt = healthy ? "a" : "b";
    ASSERT_FALSE(scheduler.add(request, healthy ? 1 : 2).refused());
    for (int i = 0; i < 9; ++i) ASSERT_TRUE(step(1));  // KV of the prompt and of 8 tokens
    const int64_t before = scheduler.stats().pages_tree;
    ASSERT_TRUE(scheduler.plan(batch));
    plan::StepResult result = result_of(batch, 1);
    result.rows[0].healthy = healthy;
    scheduler.commit(result);
    if (healthy) scheduler.cancel(1, FinishReason::abort);
    EXPECT_EQ(scheduler.stats().failed, 1);
    EXPECT_EQ(scheduler.stats().pages_tree - before, healthy ? 2 : 0);
    scheduler.take_outputs(outputs);
  }
}

TEST_F(SchedulerTest, SaltsShareNothing) {
  int64_t id = 0;
  for (const char* salt : {"a", "b", "", "a"}) {
    auto request = request_of(9, 1);
    request->cache_salt = salt;
    ASSERT_FALSE(scheduler.add(request, ++id).refused());
    ASSERT_TRUE(step(1));
    EXPECT_EQ(outputs.records.at(0).usage.cached_tokens, id == 4 ? 8 : 0);
  }
}

TEST(SchedulerRules, APolicyPassesOneABoundedNumberOfTimes) {
  SchedulerOptions options = small_options();
  options.policy = PolicyKind::priority;
  options.passes_max = 2;
  options.max_running = 1;
  Scheduler scheduler(options);
  plan::Batch batch;
  std::vector<int64_t> order;
  for (int64_t id = 1; id <= 5; ++id) {
    auto request = request_of(5, 1);
    request->priority = id == 1 ? 0 : 1;
    ASSERT_FALSE(scheduler.add(request, id).refused());
  }
  while (scheduler.plan(batch)) {
    order.push_back(batch.rows.at(0).sequence);
    plan::StepResult result = result_of(batch, 1);
    scheduler.commit(result);
  }
  EXPECT_THAT(order, ElementsAre(2, 3, 1, 4, 5));
}

TEST(SchedulerRules, NewOnesWaitAfterAPreemption) {
  Scheduler scheduler(small_options());
  plan::Batch batch;
  const auto step = [&] {
    EXPECT_TRUE(scheduler.plan(batch));
    plan::StepResult result = result_of(batch, 1);
    scheduler.commit(result);
  };
  ASSERT_FALSE(scheduler.add(request_of(5, 20), 1).refused());
  ASSERT_FALSE(scheduler.add(request_of(5, 20), 2).refused());
  step();
  ASSERT_TRUE(scheduler.preempt(2));
  ASSERT_FALSE(scheduler.add(request_of(5, 20), 3).refused());
  step();
  step();
  EXPECT_THAT(batch.rows, testing::SizeIs(2));  // the preempted one is back, the new one waits
  step();
  EXPECT_THAT(batch.rows, testing::SizeIs(3));
}

TEST(SchedulerRules, FirstRowAfterASwapIsPlain) {
  SchedulerOptions options = small_options();
  options.lookahead = {.advance_max = 2, .span = 3, .width = 2};
  options.host_pages = 8;
  Scheduler scheduler(options);
  plan::Batch batch;
  plan::CopyJobs jobs;
  const auto step = [&] {
    ASSERT_TRUE(scheduler.plan(batch));
    plan::StepResult result = result_of(batch, 1);
    scheduler.commit(result);
  };
  ASSERT_FALSE(scheduler.add(request_of(6, 20), 1).refused());
  step();
  step();
  EXPECT_EQ(batch.rows.at(0).count, 2);
  ASSERT_TRUE(scheduler.preempt(1));
  for (const bool out : {true, false}) {
    EXPECT_FALSE(scheduler.plan(batch));  // out: queued by preempt; in: queued by this plan
    scheduler.take_copies(jobs);
    ASSERT_THAT(jobs.jobs, testing::SizeIs(1));
    EXPECT_EQ(jobs.jobs[0].out, out);
    scheduler.copied(1, 0);
    scheduler.check();
  }
  step();
  EXPECT_EQ(batch.rows.at(0).count, 1);
  EXPECT_TRUE(batch.rows.at(0).plain);
  EXPECT_THAT(batch.resets, testing::SizeIs(1));
  step();
  EXPECT_EQ(batch.rows.at(0).count, 2);
}

}  // namespace
}  // namespace fathom::sched
