#include "fathom/engine/capacity.h"

#include <algorithm>
#include <random>
#include <string>

#include "fathom/base/log.h"
#include "fathom/core/device_queue.h"

namespace fathom::engine {
namespace {

// Prefill tokens that a step with decode rows takes at least: enough to keep prompts moving, few
// enough that the running requests' next tokens are not held up.
constexpr int kMixedPrefill = 128;
// Share of the free memory that KV pages may take when no flag says otherwise: a host has other
// work, a GPU has none but the step's workspace.
constexpr double kHostShare = 0.4;
constexpr double kGpuShare = 0.8;

int round_up(int n, int to) {
  return (n + to - 1) / to * to;
}

sched::PolicyKind policy_of(const std::string& name) {
  if (name == "lpm") return sched::PolicyKind::lpm;
  return name == "priority" ? sched::PolicyKind::priority : sched::PolicyKind::fcfs;
}

}  // namespace

Result<std::optional<runtime::Speculation>> speculation(
    const Config& config, const Features& features
) {
  if (!features.on(Feature::nextn)) {
    if (config.speculative_num_steps != 0 || config.speculative_eagle_topk != 0 ||
        config.speculative_num_draft_tokens != 0)
      log_warning(
          "--speculative-num-steps, -eagle-topk and -num-draft-tokens have no effect: no "
          "--speculative-algorithm is given"
      );
    return std::optional<runtime::Speculation>();
  }
  runtime::Speculation s;
  if (config.speculative_num_steps != 0) s.steps = config.speculative_num_steps;
  if (config.speculative_eagle_topk != 0) s.topk = config.speculative_eagle_topk;
  s.nodes = config.speculative_num_draft_tokens;
  if (s.nodes == 0) s.nodes = s.topk == 1 ? s.steps + 1 : s.topk + 1;
  s.least = config.speculative_draft_p_min;
  s.threshold_single = config.speculative_accept_threshold_single;
  s.threshold_acc = config.speculative_accept_threshold_acc;
  if (const Result<void> valid = runtime::validate(s); !valid) return valid.error();
  return std::optional(s);
}

Result<sched::SchedulerOptions> step_capacities(
    const Config& config, const Features& features, int64_t context, plan::Lookahead lookahead
) {
  sched::SchedulerOptions o;
  o.lookahead = lookahead;
  o.page_size = config.page_size;
  o.max_running = config.max_running_requests;
  o.max_queued = config.max_queued_requests;
  o.context_length = static_cast<int>(config.context_length > 0 ? config.context_length : context);
  if (config.context_length > context) {
    return error(
        "--context-length {}: the model was made for {} positions", config.context_length, context
    );
  }
  o.policy = policy_of(config.schedule_policy);
  o.radix_cache = features.on(Feature::radix_cache);
  o.chunked_prefill = features.on(Feature::chunked_prefill) && config.chunked_prefill_size != -1;
  o.mixed_step = features.on(Feature::mixed_step);
  o.depth = features.on(Feature::overlap_schedule) ? 1 : 0;
  const int chunk = o.chunked_prefill ? config.chunked_prefill_size : o.context_length;
  if (chunk < 1)
    return error("--chunked-prefill-size {}: a positive number of tokens, or -1", chunk);
  o.chunk_floor =
      o.chunked_prefill
          ? round_up(std::max(2 * o.page_size, std::min(chunk, kMixedPrefill)), o.page_size)
          : round_up(chunk, o.page_size);
  const int least = o.chunk_floor + o.max_running * lookahead.width;
  o.mixed_step_tokens = config.max_mixed_step_tokens > 0 ? config.max_mixed_step_tokens : least;
  o.step_tokens =
      config.max_step_tokens > 0 ? config.max_step_tokens : std::max(chunk, o.mixed_step_tokens);
  std::random_device random;
  for (uint64_t& key : o.salt_key) key = (static_cast<uint64_t>(random()) << 32) | random();
  return o;
}

Result<int> kv_pages(
    const Config& config, Device device, const layers::KvLayout& layout, int context
) {
  int64_t tokens = config.max_total_tokens;
  if (tokens == 0) {
    const double share = device.is_cuda() ? kGpuShare : kHostShare;
    const auto affordable =
        static_cast<int64_t>(share * static_cast<double>(free_device_bytes(device))) /
        layout.page_bytes(config.page_size) * config.page_size;
    tokens = std::min(affordable, static_cast<int64_t>(context) * config.max_running_requests);
  }
  constexpr int64_t kMostPages = int64_t{1} << 28;
  const int64_t pages = tokens / config.page_size + 1;
  if (tokens < config.page_size || pages > kMostPages) {
    return error(
        "KV cache of {} tokens in pages of {}: at least one page and at most {} are possible; set "
        "--max-total-tokens",
        tokens,
        config.page_size,
        kMostPages
    );
  }
  return static_cast<int>(pages);
}

runtime::StepCapacity largest_step(const sched::SchedulerOptions& o) {
  const int tokens =
      std::max({o.step_tokens, o.mixed_step_tokens, o.chunked_prefill ? 0 : o.context_length});
  const auto reach = sched::reach_max(o, o.context_length);
  const auto pages_each = static_cast<int>((reach + o.page_size - 1) / o.page_size);
  return {
      .tokens = tokens + o.max_running * o.lookahead.width,
      .rows = o.max_running,
      .slots = o.max_running,
      .pages = pages_each * o.max_running,
      .positions = static_cast<int>(reach),
  };
}

}  // namespace fathom::engine
