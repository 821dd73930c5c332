#include "fathom/engine/text_worker.h"

#include "fathom/base/log.h"
#include "fathom/base/thread_name.h"
#include "fathom/text/tokenizer.h"

namespace fathom::engine {

TextWorker::TextWorker(const text::Tokenizer& tokenizer, OnStop on_stop, OnEnd on_end)
    : tokenizer_(tokenizer),
      on_stop_(std::move(on_stop)),
      on_end_(std::move(on_end)),
      thread_([this] { work(); }) {}

TextWorker::~TextWorker() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void TextWorker::open(
    int64_t sequence, const std::shared_ptr<const plan::Request>& request, int choice
) {
  const plan::SamplingParams& sampling = request->sampling;
  auto stream = std::make_unique<Stream>(Stream{
      .request = request,
      .choice = choice,
      .detokenizer = text::Detokenizer(
          tokenizer_, sampling.skip_special_tokens, text::TextPosition::continuation
      ),
      .stops = text::StopMatcher(sampling.stop, sampling.include_stop),
  });
  const std::lock_guard lock(mutex_);
  streams_[sequence] = std::move(stream);
}

void TextWorker::post(plan::Outputs& outputs) {
  if (outputs.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(outputs));
    if (spare_.empty()) {
      outputs = {};
    } else {
      outputs = std::move(spare_.back());
      spare_.pop_back();
    }
  }
  wake_.notify_one();
}

void TextWorker::work() {
  name_this_thread("text");
  std::vector<plan::Outputs> taken;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      for (plan::Outputs& outputs : taken) {
        outputs.clear();
        spare_.push_back(std::move(outputs));
      }
      taken.clear();
      wake_.wait(lock, [this] { return stop_ || !posted_.empty(); });
      if (posted_.empty()) return;
      taken.swap(posted_);
    }
    for (const plan::Outputs& outputs : taken) {
      for (const plan::OutputRecord& record : outputs.records) deliver(outputs, record);
    }
  }
}

void TextWorker::deliver(const plan::Outputs& outputs, const plan::OutputRecord& record) {
  Stream* stream = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const auto found = streams_.find(record.sequence);
    if (found == streams_.end()) return;
    stream = found->second.get();
  }
  // Before the client hears of the end, which may then use the request's id again.
  if (record.finish) on_end_(*stream->request);
  if (!stream->closed) {
    plan::OutputChunk chunk;
    chunk.choice = stream->choice;
    if (record.prompt_logprobs >= 0)
      chunk.prompt_logprobs = outputs.prompt_logprobs[static_cast<size_t>(record.prompt_logprobs)];
    const bool stopped = append(*stream, outputs, record, chunk);
    if (stopped) {
      chunk.finish = plan::FinishReason::stop;
      chunk.stop_match = stream->stops.matched();
    } else if (record.finish) {
      std::string rest, shown;
      stream->detokenizer.finish(rest);
      stream->stops.add(rest, shown);
      stream->stops.finish(shown);
      chunk.text += shown;
      chunk.finish = record.finish;
      chunk.error = record.error;
      if (record.stop_token >= 0) chunk.stop_match = tokenizer_.token(record.stop_token);
      if (record.embedding >= 0)
        chunk.embedding = outputs.embeddings[static_cast<size_t>(record.embedding)];
    }
    chunk.usage = record.usage;
    chunk.usage.completion_tokens = stream->delivered;
    stream->closed = chunk.finish.has_value();
    if (stopped && !record.finish) on_stop_(record.sequence, stream->delivered);
    try {
      stream->request->sink(std::move(chunk));
    } catch (const std::exception& e) {
      log_error("request {}: its sink failed: {}", stream->request->id, e.what());
      stream->closed = true;
    }
  }
  if (!record.finish) return;
  const std::lock_guard lock(mutex_);
  streams_.erase(record.sequence);
}

bool TextWorker::append(
    Stream& stream,
    const plan::Outputs& outputs,
    const plan::OutputRecord& record,
    plan::OutputChunk& chunk
) {
  std::string piece;
  for (int32_t i = 0; i < record.token_count; ++i) {
    const plan::Token token = outputs.tokens[static_cast<size_t>(record.token_begin + i)];
    chunk.tokens.push_back(token);
    if (record.logprob_begin >= 0) {
      chunk.logprobs.push_back(outputs.logprobs[static_cast<size_t>(record.logprob_begin + i)]);
    }
    ++stream.delivered;
    // The stop id is an end, not text, unless it was asked for.
    const bool is_stop_id = record.stop_token >= 0 && i + 1 == record.token_count;
    if (is_stop_id && !stream.request->sampling.include_stop) continue;
    piece.clear();
    stream.detokenizer.add(token, piece);
    stream.stops.add(piece, chunk.text);
    if (stream.stops.stopped()) return true;
  }
  return false;
}

}  // namespace fathom::engine
