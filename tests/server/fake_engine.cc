#include "tests/server/fake_engine.h"

#include <algorithm>

namespace fathom::testing {
namespace {

constexpr plan::Token kBytes = 256;
constexpr plan::Token kStart = 256, kEnd = 257;  // <|im_start|>, <|im_end|>

constexpr std::string_view kChatMl =
    "{%- for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

// The printable character that byte-level BPE writes for a byte.
std::string byte_spelling(int byte) {
  static const std::vector<int> code_points = [] {
    std::vector<int> points(256);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      points[static_cast<size_t>(b)] = printable ? b : next++;
    }
    return points;
  }();
  const int point = code_points[static_cast<size_t>(byte)];
  if (point < 0x80) return {static_cast<char>(point)};
  return {static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 0x3F))};
}

std::string tokenizer_json() {
  Json vocabulary = Json::object();
  for (int b = 0; b < kBytes; ++b) vocabulary[byte_spelling(b)] = b;
  const auto added = [](plan::Token id, const char* content) {
    return Json{
        {"id", id},
        {"content", content},
        {"single_word", false},
        {"lstrip", false},
        {"rstrip", false},
        {"normalized", false},
        {"special", true}};
  };
  const Json byte_level = {
      {"type", "ByteLevel"},
      {"add_prefix_space", false},
      {"trim_offsets", true},
      {"use_regex", false}};
  const Json root = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", {added(kStart, "<|im_start|>"), added(kEnd, "<|im_end|>")}},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"post_processor", nullptr},
      {"decoder", byte_level},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"vocab", vocabulary},
        {"merges", Json::array()}}}};
  return root.dump();
}

uint64_t mix(uint64_t state, uint64_t value) {
  state = (state ^ value) * 0x9E3779B97F4A7C15ull;
  return state ^ state >> 29;
}

}  // namespace

struct FakeEngine::Choice {
  int index;
  text::Detokenizer detokenizer;
  text::StopMatcher stops;
  int produced = 0;
  bool ended = false;
};

struct FakeEngine::Live {
  std::shared_ptr<const plan::Request> request;
  std::string prompt_text;
  std::vector<Choice> choices;
  uint64_t hash = 0;
  bool cancelled = false;

  bool ended() const {
    return std::all_of(choices.begin(), choices.end(), [](const Choice& c) { return c.ended; });
  }
};

FakeEngine::FakeEngine(FakeOptions options) : options_(options) {
  config_.model_path = "models/fake-model";
  config_.max_queued_requests = options.max_queued_requests;
  auto tokenizer = text::Tokenizer::from_hf_json(tokenizer_json());
  CHECK(tokenizer.ok(), "{}", tokenizer.error().message);
  tokenizer_ = std::move(*tokenizer);
  auto chat_template = text::ChatTemplate::parse(kChatMl, "", "<|im_end|>");
  CHECK(chat_template.ok(), "{}", chat_template.error().message);
  if (options.has_chat_template) chat_template_ = std::move(*chat_template);
  stats_.pages_total = 256;
  stats_.kv_tokens_total = 4096;
  stats_.accept_length = 2.5;
  stats_.accept_rate = 0.75;
  thread_ = std::thread([this] { loop(); });
}

FakeEngine::~FakeEngine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

const text::ChatTemplate* FakeEngine::chat_template() const {
  return chat_template_ ? &*chat_template_ : nullptr;
}

engine::Refusal FakeEngine::submit(std::shared_ptr<const plan::Request> request) {
  const std::lock_guard lock(mutex_);
  const int limit =
      static_cast<int>(request->prompt.size()) + std::max(1, request->sampling.max_new_tokens);
  if (draining_) return {engine::RefusalKind::draining, "draining"};
  if (static_cast<int>(live_.size()) >= options_.max_queued_requests) {
    return {engine::RefusalKind::queue_full, "the queue is full", 2};
  }
  if (limit > options_.context_length) {
    return {
        engine::RefusalKind::too_long,
        fmt::format("{} tokens above {}", limit, options_.context_length)};
  }
  auto live = std::make_unique<Live>();
  live->request = request;
  live->prompt_text = tokenizer_->decode(request->prompt, false);
  for (const plan::Token token : request->prompt)
    live->hash = mix(live->hash, static_cast<uint64_t>(token));
  if (request->sampling.temperature > 0) live->hash = mix(live->hash, request->sampling.seed);
  for (int i = 0; i < request->n; ++i) {
    live->choices.push_back(
        {.index = i,
         .detokenizer = text::Detokenizer(
             *tokenizer_, request->sampling.skip_special_tokens, text::TextPosition::continuation
         ),
         .stops = text::StopMatcher(request->sampling.stop, request->sampling.include_stop)}
    );
  }
  last_ = request;
  ++stats_.requests;
  stats_.prompt_tokens += static_cast<int64_t>(request->prompt.size());
  live_.push_back(std::move(live));
  changed_.notify_all();
  return {};
}

void FakeEngine::cancel(const std::string& request_id) {
  const std::lock_guard lock(mutex_);
  for (auto& live : live_) live->cancelled |= live->request->id == request_id;
}

void FakeEngine::cancel_all() {
  const std::lock_guard lock(mutex_);
  for (auto& live : live_) live->cancelled = true;
}

bool FakeEngine::flush_cache() {
  const std::lock_guard lock(mutex_);
  return live_.empty();
}

engine::Stats FakeEngine::stats() const {
  const std::lock_guard lock(mutex_);
  engine::Stats stats = stats_;
  stats.running = static_cast<int>(live_.size());
  return stats;
}

void FakeEngine::drain(std::chrono::milliseconds deadline) {
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
  }
  if (wait_until_idle(deadline)) return;
  cancel_all();
  wait_until_idle(std::chrono::seconds(5));
}

std::shared_ptr<const plan::Request> FakeEngine::last_request() const {
  const std::lock_guard lock(mutex_);
  return last_;
}

bool FakeEngine::wait_until_idle(std::chrono::milliseconds deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, deadline, [this] { return live_.empty(); });
}

void FakeEngine::loop() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait(lock, [this] { return stopping_ || !live_.empty(); });
    for (auto& live : live_) step(*live);
    std::erase_if(live_, [](const auto& live) { return live->ended(); });
    if (live_.empty()) changed_.notify_all();
    lock.unlock();
    std::this_thread::sleep_for(options_.step);
    lock.lock();
  }
}

void FakeEngine::step(Live& live) {
  const plan::Request& request = *live.request;
  for (Choice& choice : live.choices) {
    if (choice.ended) continue;
    if (live.cancelled) {
      end(live, choice, {.choice = choice.index}, plan::FinishReason::abort);
    } else if (request.embedding) {
      end(live,
          choice,
          {.choice = choice.index, .embedding = {0.5f, -1.0f, 0.25f}},
          plan::FinishReason::stop);
    } else if (live.prompt_text.find("[hang]") == std::string::npos) {
      step_choice(live, choice);
    }
  }
  if (live.cancelled) ++stats_.aborted;
}

void FakeEngine::step_choice(Live& live, Choice& choice) {
  const plan::SamplingParams& sampling = live.request->sampling;
  plan::OutputChunk chunk{.choice = choice.index};
  if (live.prompt_text.find("[fail]") != std::string::npos && choice.produced == 3) {
    chunk.error = "the test asked for a failure";
    return end(live, choice, std::move(chunk), plan::FinishReason::failed);
  }
  const plan::Token token = draw(live, choice);
  ++choice.produced;
  ++stats_.generated_tokens;
  const bool is_stop = std::count(sampling.stop_ids.begin(), sampling.stop_ids.end(), token) > 0 ||
                       (token == kEnd && !sampling.ignore_eos);
  chunk.tokens = {token};
  if (sampling.logprobs >= 0) {
    plan::TokenLogprob logprob{.token = token, .logprob = -0.5f};
    for (int i = 0; i < sampling.logprobs; ++i)
      logprob.top.push_back((token + i) % kBytes, -0.5f - i);
    chunk.logprobs = {logprob};
  }
  std::string text;
  if (!is_stop) choice.detokenizer.add(token, text);
  choice.stops.add(text, chunk.text);
  if (choice.stops.stopped()) {
    chunk.stop_match = choice.stops.matched();
    return end(live, choice, std::move(chunk), plan::FinishReason::stop);
  }
  if (is_stop) return end(live, choice, std::move(chunk), plan::FinishReason::stop);
  if (choice.produced == sampling.max_new_tokens) {
    return end(live, choice, std::move(chunk), plan::FinishReason::length);
  }
  chunk.usage = {static_cast<int>(live.request->prompt.size()), 0, choice.produced};
  live.request->sink(std::move(chunk));
}

plan::Token FakeEngine::draw(const Live& live, const Choice& choice) const {
  const int position = choice.produced;
  if (position == 5 && live.prompt_text.find("[end]") != std::string::npos) return kEnd;
  // "é" in two tokens, at 5 and 6 of each seven.
  if (position % 7 == 5) return 0xC3;
  if (position % 7 == 6) return 0xA9;
  const uint64_t drawn =
      mix(mix(live.hash, static_cast<uint64_t>(choice.index)), static_cast<uint64_t>(position));
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz ,\n\"";
  return kLetters[drawn % kLetters.size()];
}

void FakeEngine::end(
    Live& live, Choice& choice, plan::OutputChunk&& chunk, plan::FinishReason reason
) {
  std::string rest;
  if (reason != plan::FinishReason::failed && !choice.stops.stopped()) {
    choice.detokenizer.finish(rest);
    choice.stops.add(rest, chunk.text);
    choice.stops.finish(chunk.text);
  }
  choice.ended = true;
  chunk.finish = reason;
  chunk.usage = {static_cast<int>(live.request->prompt.size()), 0, choice.produced};
  live.request->sink(std::move(chunk));
}

}  // namespace fathom::testing
