#include "apps/eval_perplexity.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <numeric>

namespace fathom::apps {
namespace {

// Shared with the sinks, which may outlive a run that failed.
struct Run {
  std::mutex mutex;
  std::condition_variable changed;
  Perplexity sum;               // of the windows whose turn has come
  std::vector<double> nll;      // of each window, until then
  std::vector<int64_t> tokens;  // of each window; 0: has not come back
  int in_flight = 0;
  std::string failure;
};

// The windows' sums join in the order of the text, so that the total does not depend on which came
// back first.
void add_in_order(Run& run) {
  for (auto& at = run.sum.windows; at < std::ssize(run.tokens); ++at) {
    const auto i = static_cast<size_t>(at);
    if (run.tokens[i] == 0) return;
    run.sum.nll += run.nll[i];
    run.sum.tokens += run.tokens[i];
  }
}

void receive(Run& run, size_t window, const plan::OutputChunk& chunk) {
  const std::lock_guard lock(run.mutex);
  if (!chunk.prompt_logprobs.empty()) {
    run.tokens[window] = std::ssize(chunk.prompt_logprobs);
    run.nll[window] =
        -std::accumulate(chunk.prompt_logprobs.begin(), chunk.prompt_logprobs.end(), 0.0);
    add_in_order(run);
  }
  if (!chunk.finish) return;
  if (run.tokens[window] == 0) run.failure = "a window failed: " + chunk.error;
  --run.in_flight;
  run.changed.notify_all();
}

std::shared_ptr<plan::Request> window_request(
    std::span<const plan::Token> tokens, Windows windows, int64_t i
) {
  const auto request = std::make_shared<plan::Request>();
  const auto begin = static_cast<size_t>(i * windows.stride);
  const size_t n = std::min(static_cast<size_t>(windows.size), tokens.size() - begin);
  const std::span<const plan::Token> window = tokens.subspan(begin, n);
  request->id = fmt::format("window-{}", i);
  request->prompt.assign(window.begin(), window.end());
  request->prompt_logprobs_from = i == 0 ? 1 : windows.size - windows.stride;
  request->sampling.temperature = 0.0f;
  request->sampling.max_new_tokens = 1;
  return request;
}

}  // namespace

double Perplexity::value() const {
  return std::exp(mean_nll());
}

Result<Perplexity> perplexity(
    engine::Engine& engine,
    std::span<const plan::Token> tokens,
    Windows windows,
    int concurrency,
    const std::function<void(const Perplexity&)>& on_window
) {
  const int64_t count = std::ssize(tokens), size = windows.size, stride = windows.stride;
  if (count < 2) return error("a text of {} tokens: at least two are needed", count);
  if (stride < 1 || stride >= size)
    return error(
        "a stride of {} tokens in windows of {}: it must be in 1 .. {}", stride, size, size - 1
    );
  const int64_t n = 1 + (std::max<int64_t>(count - size, 0) + stride - 1) / stride;
  const auto run = std::make_shared<Run>();
  run->nll.resize(static_cast<size_t>(n));
  run->tokens.resize(static_cast<size_t>(n));
  std::unique_lock lock(run->mutex);
  for (int64_t i = 0; i < n && run->failure.empty(); ++i) {
    const std::shared_ptr<plan::Request> request = window_request(tokens, windows, i);
    request->sink = [run, i](plan::OutputChunk&& chunk) {
      receive(*run, static_cast<size_t>(i), chunk);
    };
    ++run->in_flight;
    lock.unlock();
    const engine::Refusal refusal = engine.submit(request);
    lock.lock();
    if (refusal.refused()) {
      --run->in_flight;
      run->failure = refusal.message;
    }
    run->changed.wait(lock, [&] { return run->in_flight < concurrency; });
    if (on_window) on_window(run->sum);
  }
  run->changed.wait(lock, [&] { return run->in_flight == 0; });
  if (!run->failure.empty()) return Error{run->failure};
  if (on_window) on_window(run->sum);
  return run->sum;
}

}  // namespace fathom::apps
