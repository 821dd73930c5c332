// Capacities and choices of one scheduler, and the checks that need nothing else. Plain data; the
// engine fills it from its Config and Features. The functions here may be called from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fathom/base/result.h"
#include "fathom/plan/batch.h"
#include "fathom/plan/refusal.h"

namespace fathom::sched {

using plan::StepId;
using plan::Token;

enum class PolicyKind : uint8_t { fcfs, lpm, priority };

// Cost model of V3, nanoseconds. A swap copies out and in again.
struct SwapCost {
  int64_t copy_per_token = 100;
  int64_t prefill_per_token = 100'000;
};

// What a step costs, nanoseconds, as measured: each step, each input token, and each pair of an
// input token and a KV position that it reads. token = 0: not known.
struct StepCost {
  int64_t step = 0;
  int64_t token = 0;
  int64_t pair = 0;
};

struct SchedulerOptions {
  int pages = 0;  // KV pages, the dummy page included
  int page_size = 16;
  int host_pages = 0;     // pinned pages for swapping; 0: the runtime cannot swap, always recompute
  int max_running = 64;   // device slots (R)
  int max_queued = 1024;  // sequences that were never admitted; beyond it requests are refused
  int context_length = 0;
  int step_tokens = 0;        // T, without decode rows
  int mixed_step_tokens = 0;  // T_mix, with decode rows
  int chunk_floor = 0;        // C: prefill tokens of any step that has prefill to do
  int depth = 0;              // overlap: at most depth + 1 steps in flight
  plan::Lookahead lookahead;
  PolicyKind policy = PolicyKind::fcfs;
  bool radix_cache = true;       // off: a private namespace for each sequence (T4)
  bool chunked_prefill = true;   // off: a prompt is one row
  bool mixed_step = true;        // off: a step has chunks or decode rows, not both
  int decode_steps_between = 1;  // q, with mixed_step off
  int passes_max = 64;           // B: how often a policy lets one be passed (A3)
  double growth_min = 0.05;      // r_min of V6
  double growth_start = 0.3;     // r at start
  bool embedding_needs_all =
      true;  // pooling reads every hidden state: no prefix hit for embeddings
  SwapCost swap_cost;
  // With a known cost, chunks beside decode rows are cut so that the step costs at most
  // mixed_stretch times what its decode rows alone would, but to no less than one token.
  StepCost step_cost;
  double mixed_stretch = 1.8;
  std::vector<Token> end_tokens;  // the model's own, which stop unless ignore_eos
  uint64_t salt_key[2] = {};      // secret of the namespaces; drawn at start
};

// Start-up's check: every number in range, R * V + C <= T_mix (section 8). The Error names the
// flag.
Result<void> validate(const SchedulerOptions& options);

// Positions that a sequence of `limit` tokens may write at most (R3).
int64_t reach_max(const SchedulerOptions& options, int64_t limit);

// S1 as far as it depends on the request alone: none, invalid or too_long. The engine asks on the
// client's thread; Scheduler::add asks again.
plan::Refusal check_request(const SchedulerOptions& options, const plan::Request& request);

// Prompt and most output of an acceptable request, in tokens. A request that names no maximum gets
// what fits the context and the pool.
int token_limit(const SchedulerOptions& options, const plan::Request& request);

}  // namespace fathom::sched
