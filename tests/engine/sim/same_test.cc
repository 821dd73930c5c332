// The same requests give the same output whatever the scheduler does (contracts.md section 13, 2).
#include <gtest/gtest.h>

#include <functional>

#include "fathom/testing/scale.h"
#include "tests/engine/sim/options.h"
#include "tests/engine/sim/world.h"

namespace fathom::sim {
namespace {

using Outputs = std::vector<std::vector<Token>>;

struct Result {
  Outputs outputs;
  sched::SchedulerStats stats;
};

// All output of 40 random requests, the same for a seed; `order` decides when things happen.
Result run(
    const sched::SchedulerOptions& options, uint64_t seed, uint64_t order, int preempt_every
) {
  World world(options, {.arrive = 0, .cancel = 0, .flush = 0}, Shape{.stops = false}, order);
  world.preempt_every = preempt_every;
  World source(options, {}, Shape{.stops = false}, seed);
  for (int i = 0; i < 40; ++i) {
    EXPECT_TRUE(world.add(source.random_request()));
    for (uint64_t turns = order % 7; turns > 0; --turns) world.turn();
  }
  world.finish();
  world.check_clients();
  Result result{.stats = world.scheduler.stats()};
  for (const Client& client : world.clients) result.outputs.push_back(client.seen);
  return result;
}

struct Variant {
  const char* name;
  std::function<void(sched::SchedulerOptions&)> change;
  int preempt_every = 0;
  std::function<bool(const sched::SchedulerStats&)> happened = [](const auto&) { return true; };
};

void speculate(sched::SchedulerOptions& o) {
  o.lookahead = {.advance_max = 3, .span = 5, .width = 3};
  o.mixed_step_tokens = 40;
}

const Variant kVariants[] = {
    {"depth 1", [](auto& o) { o.depth = 1; }},
    {"depth 2", [](auto& o) { o.depth = 2; }},
    {"page size 1", [](auto& o) { o.page_size = 1, o.pages = 1601; }},
    {"page size 16",
     [](auto& o) {
       o.page_size = 16, o.pages = 101, o.chunk_floor = 32;
       o.mixed_step_tokens = 40;
     }},
    {"large chunks", [](auto& o) { o.step_tokens = o.mixed_step_tokens = 200; }},
    {"whole prompts",
     [](auto& o) {
       o.chunked_prefill = false, o.chunk_floor = o.context_length;
       o.step_tokens = o.mixed_step_tokens = 200;
     }},
    {"chunks and decode apart", [](auto& o) { o.mixed_step = false; }},
    {"no prefix cache",
     [](auto& o) { o.radix_cache = false; },
     0,
     [](const auto& stats) { return stats.cached_tokens == 0; }},
    {"prefix cache", [](auto&) {}, 0, [](const auto& stats) { return stats.cached_tokens > 0; }},
    {"longest prefix first", [](auto& o) { o.policy = sched::PolicyKind::lpm; }},
    {"priority first", [](auto& o) { o.policy = sched::PolicyKind::priority; }},
    {"preempted by recompute",
     [](auto& o) { o.depth = 1; },
     3,
     [](const auto& stats) { return stats.preemptions > 20 && stats.swaps == 0; }},
    {"preempted by swap",
     [](auto& o) { o.depth = 1, o.host_pages = 400; },
     3,
     [](const auto& stats) { return stats.swaps > 10; }},
    {"speculation", speculate},
    {"speculation, overlapped, swapped",
     [](auto& o) { speculate(o), o.depth = 1, o.host_pages = 400; },
     2,
     [](const auto& stats) { return stats.swaps > 10; }},
    {"few pages",
     [](auto& o) { o.pages = 20, o.growth_min = o.growth_start = 0.01; },
     0,
     [](const auto& stats) { return stats.preemptions > 0; }},
};

TEST(SchedSame, OutputDoesNotDependOnHowItIsScheduled) {
  for (uint64_t seed = 1; seed <= static_cast<uint64_t>(testing::scaled(20)); ++seed) {
    const Outputs base = run(ample_options(), seed, 0, 0).outputs;
    for (const Variant& variant : kVariants) {
      sched::SchedulerOptions options = ample_options();
      variant.change(options);
      SCOPED_TRACE(std::string(variant.name) + ", seed " + std::to_string(seed));
      Result other;
      ASSERT_NO_THROW(other = run(options, seed, seed * 13, variant.preempt_every));
      EXPECT_EQ(other.outputs, base);
      EXPECT_TRUE(variant.happened(other.stats));
    }
  }
}

}  // namespace
}  // namespace fathom::sim
