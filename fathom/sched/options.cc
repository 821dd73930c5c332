#include "fathom/sched/options.h"

#include <algorithm>

namespace fathom::sched {
namespace {

int64_t capacity(const SchedulerOptions& o) {
  return int64_t{o.pages - 1} * o.page_size;
}

// Largest limit whose reach fits the pool and that the model can hold.
int64_t limit_max(const SchedulerOptions& o) {
  return std::min<int64_t>(o.context_length, capacity(o) - reach_max(o, 0));
}

plan::Refusal invalid(std::string message) {
  return {plan::RefusalKind::invalid, std::move(message)};
}

}  // namespace

int64_t reach_max(const SchedulerOptions& o, int64_t limit) {
  return limit - 2 + int64_t{o.depth} * (o.lookahead.advance_max - 1) + o.lookahead.span;
}

Result<void> validate(const SchedulerOptions& o) {
  const auto& l = o.lookahead;
  if (o.page_size < 1 || o.page_size > 64) {
    return error("page size {} is not in 1 .. 64 tokens", o.page_size);
  }
  if (o.pages < 2) return error("{} KV pages: at least one besides the dummy is needed", o.pages);
  if (o.max_running < 1) return error("max running requests is {}, not positive", o.max_running);
  if (o.context_length < 2) return error("a context of {} tokens", o.context_length);
  if (o.depth < 0 || o.depth > 8) return error("overlap depth {} is not in 0 .. 8", o.depth);
  if (l.advance_max < 1 || l.span < l.advance_max || l.width < 1 || l.span < l.width) {
    return error("lookahead adds {}, spans {}, reads {}", l.advance_max, l.span, l.width);
  }
  const int floor = o.chunked_prefill ? 2 * o.page_size : o.context_length;
  if (o.chunk_floor < floor || (o.chunked_prefill && o.chunk_floor % o.page_size != 0)) {
    return error(
        "a prefill floor of {} tokens: it must be a multiple of the page size {} and at least {}",
        o.chunk_floor,
        o.page_size,
        floor
    );
  }
  const int64_t need = int64_t{o.max_running} * l.width + o.chunk_floor;
  if (need > o.mixed_step_tokens || o.mixed_step_tokens > o.step_tokens) {
    return error(
        "steps of {} tokens, {} with decode rows: {} running requests of {} tokens and a prefill "
        "floor of {} need {}; allow larger steps or fewer running requests",
        o.step_tokens,
        o.mixed_step_tokens,
        o.max_running,
        l.width,
        o.chunk_floor,
        need
    );
  }
  if (o.decode_steps_between < 1) return error("{} decode steps between", o.decode_steps_between);
  if (o.mixed_stretch <= 1) return error("a mixed step may cost {} decode steps", o.mixed_stretch);
  if (o.growth_min <= 0 || o.growth_start < o.growth_min || o.growth_start > 1) {
    return error("growth reserve starts at {}, at least {}", o.growth_start, o.growth_min);
  }
  return {};
}

plan::Refusal check_request(const SchedulerOptions& o, const plan::Request& request) {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const int most = request.sampling.max_new_tokens;
  if (prompt == 0) return invalid("the prompt is empty; at least one token is needed");
  if (request.n < 1)
    return invalid(fmt::format("n is {}; at least one choice is needed", request.n));
  if (!request.embedding && (most == 0 || most < -1)) {
    return invalid(fmt::format("max tokens is {}; at least one is needed", most));
  }
  const int scored = request.prompt_logprobs_from;
  if (scored != -1 && (request.embedding || scored < 1 || scored >= prompt)) {
    return invalid(fmt::format(
        "log probabilities of the prompt from token {} on: there is nothing before token 0, and "
        "the "
        "prompt has {}",
        scored,
        prompt
    ));
  }
  const int64_t output = request.embedding || most < 0 ? 1 : most;
  const int64_t pages = (reach_max(o, prompt + output) + o.page_size - 1) / o.page_size;
  if (prompt + output <= o.context_length && pages <= o.pages - 1) return {};
  return {
      plan::RefusalKind::too_long,
      fmt::format(
          "{} prompt tokens and {} new ones do not fit: the context is {} tokens, the KV cache {} "
          "tokens; shorten the prompt or lower max_tokens",
          prompt,
          output,
          o.context_length,
          capacity(o)
      )};
}

int token_limit(const SchedulerOptions& o, const plan::Request& request) {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (request.embedding) return static_cast<int>(prompt + 1);
  const int most = request.sampling.max_new_tokens;
  return static_cast<int>(most < 0 ? limit_max(o) : prompt + most);
}

}  // namespace fathom::sched
