#include "tests/engine/sim/options.h"

#include <fmt/format.h>

namespace fathom::sim {

sched::SchedulerOptions ample_options() {
  sched::SchedulerOptions o;
  o.page_size = 4;
  o.pages = 401;
  o.max_running = 8;
  o.context_length = 96;
  o.chunk_floor = 8;
  o.mixed_step_tokens = 32;
  o.step_tokens = 48;
  return o;
}

sched::SchedulerOptions random_options(Random& random) {
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<uint64_t>(n)); };
  sched::SchedulerOptions o;
  constexpr int kPageSizes[] = {1, 2, 4, 16, 64};
  o.page_size = kPageSizes[below(5)];
  o.context_length = 70;
  o.depth = below(3);
  o.lookahead.advance_max = 1 + below(4);
  o.lookahead.span = o.lookahead.advance_max + (o.lookahead.advance_max > 1 ? 1 + below(3) : 0);
  o.lookahead.width = o.lookahead.advance_max;
  o.max_running = 1 + below(6);
  o.chunked_prefill = below(5) > 0;
  o.chunk_floor = o.chunked_prefill ? o.page_size * (2 + below(3)) : o.context_length;
  o.mixed_step_tokens = o.max_running * o.lookahead.width + o.chunk_floor + below(9);
  o.step_tokens = o.mixed_step_tokens + below(30);
  o.mixed_step = below(4) > 0;
  o.decode_steps_between = 1 + below(2);
  o.radix_cache = below(5) > 0;
  o.policy = static_cast<sched::PolicyKind>(below(3));
  o.passes_max = 1 + below(8);
  const auto reach = static_cast<int>(sched::reach_max(o, o.context_length));
  const int least = (reach + o.page_size - 1) / o.page_size;
  o.pages = 1 + least * (1 + below(4)) + below(least + 1);
  o.host_pages = below(2) * (1 + below(2 * least));
  o.growth_min = 0.02;
  o.growth_start = 0.02 + 0.1 * below(5);
  return o;
}

std::string describe(const sched::SchedulerOptions& o) {
  return fmt::format(
      "pages {} of {}, host {}, running {}, T {} T_mix {} C {}, depth {}, A {} W {} V {}, policy "
      "{}, "
      "radix {} chunked {} mixed {}",
      o.pages,
      o.page_size,
      o.host_pages,
      o.max_running,
      o.step_tokens,
      o.mixed_step_tokens,
      o.chunk_floor,
      o.depth,
      o.lookahead.advance_max,
      o.lookahead.span,
      o.lookahead.width,
      static_cast<int>(o.policy),
      o.radix_cache,
      o.chunked_prefill,
      o.mixed_step
  );
}

}  // namespace fathom::sim
