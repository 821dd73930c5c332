#include "fathom/testing/engine_client.h"

namespace fathom::testing {
namespace {

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

void receive(Answer& answer, const plan::OutputChunk& chunk) {
  if (answer.finish) ++answer.chunks_after_finish;
  answer.text += chunk.text;
  append(answer.tokens, chunk.tokens);
  append(answer.logprobs, chunk.logprobs);
  append(answer.embedding, chunk.embedding);
  append(answer.prompt_logprobs, chunk.prompt_logprobs);
  answer.usage = chunk.usage;
  if (!chunk.finish) return;
  answer.finish = chunk.finish;
  answer.stop_match = chunk.stop_match;
  answer.error = chunk.error;
}

}  // namespace

engine::Refusal EngineClient::submit(plan::Request request) {
  if (request.id.empty()) request.id = "test-" + std::to_string(serial_++);
  size_t first = 0;
  const auto n = static_cast<size_t>(request.n);
  {
    const std::lock_guard lock(shared_->mutex);
    first = shared_->answers.size();
    shared_->answers.resize(first + n);
    shared_->left += n;
  }
  request.sink = [shared = shared_, first](plan::OutputChunk&& chunk) {
    const std::lock_guard lock(shared->mutex);
    receive(shared->answers[first + static_cast<size_t>(chunk.choice)], chunk);
    if (chunk.finish && --shared->left == 0) shared->done.notify_all();
  };
  engine::Refusal refusal = engine_.submit(std::make_shared<plan::Request>(std::move(request)));
  if (refusal.refused()) {
    const std::lock_guard lock(shared_->mutex);
    shared_->answers.resize(first);
    shared_->left -= n;
  }
  return refusal;
}

bool EngineClient::wait(std::chrono::seconds patience) {
  std::unique_lock lock(shared_->mutex);
  return shared_->done.wait_for(lock, patience, [&] { return shared_->left == 0; });
}

std::vector<Answer> EngineClient::answers() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->answers;
}

Answer EngineClient::ask(plan::Request request) {
  engine::Refusal refusal = submit(std::move(request));
  CHECK(!refusal.refused(), "refused: {}", refusal.message);
  CHECK(wait(), "no answer in time");
  return answers().back();
}

}  // namespace fathom::testing
