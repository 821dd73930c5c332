#include "fathom/server/generation.h"

#include "fathom/server/clock.h"
#include "fathom/server/errors.h"

namespace fathom::server {

Reply Generation::start(
    engine::Engine& engine,
    Metrics& metrics,
    const AnswerFormat& format,
    Call call,
    const plan::Request& form,
    size_t outbox_limit
) {
  std::unique_ptr<Generation> generation(
      new Generation(engine, metrics, format, std::move(call), outbox_limit)
  );
  const Call& asked = generation->call_;
  for (size_t i = 0; i < asked.prompts.size(); ++i) {
    auto request = std::make_shared<plan::Request>(form);
    request->id = asked.rids[i];
    request->prompt = asked.prompts[i];
    request->n = asked.n;
    request->sink = [outbox = generation->outbox_, i](plan::OutputChunk&& chunk) {
      outbox->put(i, std::move(chunk));
    };
    generation->progress_[i].submitted = true;
    const engine::Refusal refusal = engine.submit(std::move(request));
    if (refusal.refused()) {
      generation->progress_[i].submitted = false;
      return refused(refusal);
    }
  }
  return generation;
}

Generation::Generation(
    engine::Engine& engine,
    Metrics& metrics,
    const AnswerFormat& format,
    Call call,
    size_t outbox_limit
)
    : engine_(engine),
      metrics_(metrics),
      format_(format),
      call_(std::move(call)),
      progress_(call_.prompts.size()),
      unfinished_(call_.prompts.size()),
      outbox_(std::make_shared<Outbox>(outbox_limit)) {
  const auto n = static_cast<size_t>(call_.n);
  call_.choices.resize(call_.prompts.size() * n);
  for (Progress& progress : progress_) {
    progress.unfinished = call_.n;
    progress.last_token_seconds.assign(n, 0.0);
  }
}

Generation::~Generation() {
  outbox_->close();
  for (size_t i = 0; i < progress_.size(); ++i) {
    if (progress_[i].submitted && progress_[i].unfinished > 0) engine_.cancel(call_.rids[i]);
  }
}

bool Generation::advance(std::string& out) {
  items_.clear();
  const bool complete = outbox_->take(items_);
  for (Outbox::Item& item : items_) take(item, out);
  if (!complete) {
    ++metrics_.outbox_overflows;
    fail_unfinished("the client reads more slowly than its output comes", out);
  }
  if (unfinished_ > 0) return false;
  if (call_.stream) format_.close(call_, out);
  return true;
}

void Generation::take(Outbox::Item& item, std::string& out) {
  plan::OutputChunk& chunk = item.chunk;
  const size_t index =
      item.prompt * static_cast<size_t>(call_.n) + static_cast<size_t>(chunk.choice);
  CHECK(chunk.choice >= 0 && chunk.choice < call_.n, "choice {} of {}", chunk.choice, call_.n);
  Choice& choice = call_.choices[index];
  measure(item);
  choice.text += chunk.text;
  choice.tokens.insert(choice.tokens.end(), chunk.tokens.begin(), chunk.tokens.end());
  choice.logprobs.insert(choice.logprobs.end(), chunk.logprobs.begin(), chunk.logprobs.end());
  choice.usage = chunk.usage;
  if (chunk.finish) {
    choice.finish = chunk.finish;
    choice.stop_match = chunk.stop_match;
    choice.error = chunk.error;
    choice.embedding = std::move(chunk.embedding);
  }
  if (call_.stream) format_.piece(call_, index, chunk, out);
  if (chunk.finish && --progress_[item.prompt].unfinished == 0) finish(item.prompt);
}

void Generation::measure(const Outbox::Item& item) {
  Progress& progress = progress_[item.prompt];
  if (item.chunk.queue_seconds && !progress.queue_measured) {
    progress.queue_measured = true;
    metrics_.queue_time.observe(*item.chunk.queue_seconds);
  }
  const auto tokens = static_cast<int64_t>(item.chunk.tokens.size());
  if (tokens == 0) return;
  double& last = progress.last_token_seconds[static_cast<size_t>(item.chunk.choice)];
  if (last == 0.0) {
    metrics_.time_to_first_token.observe(item.arrival_seconds - call_.started_seconds);
  } else {
    metrics_.inter_token_latency.observe(
        (item.arrival_seconds - last) / static_cast<double>(tokens), tokens
    );
  }
  last = item.arrival_seconds;
}

void Generation::finish(size_t prompt) {
  --unfinished_;
  Histogram& latency = call_.stream ? metrics_.latency_streamed : metrics_.latency_whole;
  latency.observe(steady_seconds() - call_.started_seconds);
  metrics_.prompt_tokens.observe(static_cast<double>(call_.prompts[prompt].size()));
  int generated = 0;
  const auto n = static_cast<size_t>(call_.n);
  for (size_t i = prompt * n; i < (prompt + 1) * n; ++i)
    generated += call_.choices[i].usage.completion_tokens;
  metrics_.generated_tokens.observe(generated);
}

void Generation::fail_unfinished(std::string_view why, std::string& out) {
  for (size_t i = 0; i < call_.choices.size(); ++i) {
    if (call_.choices[i].finish) continue;
    const size_t prompt = i / static_cast<size_t>(call_.n);
    if (progress_[prompt].unfinished > 0) engine_.cancel(call_.rids[prompt]);
    Outbox::Item item{.prompt = prompt};
    item.chunk.choice = static_cast<int>(i % static_cast<size_t>(call_.n));
    item.chunk.finish = plan::FinishReason::failed;
    item.chunk.error = why;
    item.chunk.usage = call_.choices[i].usage;
    take(item, out);
  }
}

}  // namespace fathom::server
