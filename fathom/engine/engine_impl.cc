#include "fathom/base/log.h"

#include <algorithm>
#include <atomic>
#include <fstream>
#include <future>
#include <set>
#include <sstream>
#include <unordered_map>

#include "fathom/engine/engine.h"
#include "fathom/engine/feature_rows.h"
#include "fathom/engine/generation_config.h"
#include "fathom/engine/load_tokenizer.h"
#include "fathom/engine/model_stack.h"
#include "fathom/engine/step_loop.h"
#include "fathom/text/chat_template.h"
#include "fathom/text/tokenizer.h"

namespace fathom::engine {
namespace {

// What is read beside the weights.
struct Texts {
  std::unique_ptr<text::Tokenizer> tokenizer;
  std::optional<text::ChatTemplate> chat_template;
  GenerationConfig generation;
};

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) return error("{}: cannot be read", path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

Result<Texts> open_texts(const Config& config) {
  Texts texts;
  Result<std::unique_ptr<text::Tokenizer>> tokenizer =
      load_tokenizer(config.tokenizer_path.empty() ? config.model_path : config.tokenizer_path);
  if (!tokenizer) return tokenizer.error();
  texts.tokenizer = std::move(*tokenizer);
  Result<GenerationConfig> generation = read_generation_config(config.model_path);
  if (!generation) return generation.error();
  texts.generation = std::move(*generation);

  Result<std::string> source = config.chat_template_path.empty()
                                   ? Result<std::string>(texts.tokenizer->chat_template())
                                   : read_file(config.chat_template_path);
  if (!source) return source.error();
  if (source->empty()) return texts;
  const auto spelling = [&](plan::Token id) {
    return id < 0 ? "" : std::string(texts.tokenizer->token(id));
  };
  Result<text::ChatTemplate> parsed = text::ChatTemplate::parse(
      *source, spelling(texts.tokenizer->bos_id()), spelling(texts.tokenizer->eos_id())
  );
  if (!parsed)
    return error("chat template: {}; --chat-template FILE replaces it", parsed.error().message);
  texts.chat_template = std::move(*parsed);
  return texts;
}

std::vector<plan::Token> end_tokens_of(const Texts& texts) {
  std::set<plan::Token> ids(texts.tokenizer->end_ids().begin(), texts.tokenizer->end_ids().end());
  ids.insert(texts.generation.end_tokens.begin(), texts.generation.end_tokens.end());
  return {ids.begin(), ids.end()};
}

// Runs of an op's rows whose names end so.
int64_t hits_of(const RowCounters& counters, std::string_view op, std::string_view ending = "") {
  int64_t hits = 0;
  for (const RowCounters::Entry& entry : counters.entries()) {
    if (entry.op == op && entry.name.ends_with(ending)) hits += entry.hits;
  }
  return hits;
}

// Runs of an op's rows but those that stand for a feature that is off.
int64_t hits_but(const RowCounters& counters, std::string_view op, RowNames off) {
  int64_t hits = hits_of(counters, op);
  for (const std::string_view name : off) hits -= counters.hits(op, name);
  return hits;
}

void add_row_hits(const RowCounters& counters, std::map<std::string, int64_t>& hits) {
  using namespace rows_without;
  hits["moe_gate"] = hits_but(counters, "moe_gate", kVectors);
  hits["moe_align"] = hits_but(counters, "moe_align", kVectors);
  hits["merge_states"] = hits_but(counters, "merge_states", kVectors);
  hits["fused_quant"] =
      hits_but(counters, "fused_quant", kFusedQuant) + hits_but(counters, "rms_norm_quant", kParts);
  hits["fused_rope_store"] =
      hits_but(counters, "mla_store", kParts) + hits_but(counters, "rope_append", kParts);
  hits["fused_kv_store"] = hits["fused_rope_store"] +
                           hits_but(counters, "mla_kv_append", kVectors) +
                           hits_but(counters, "kv_append", kVectors);
}

// Of the features that change how a latent-attention model with experts is laid out: steps that ran
// so; of the forms of its attention: calls.
void add_deepseek_hits(
    const Features& features,
    const ModelStack& stack,
    int64_t steps,
    std::map<std::string, int64_t>& hits
) {
  const models::ModelConfig& model = stack.model_config();
  const auto when = [&](bool on) { return on ? steps : 0; };
  const bool mla = model.mla.has_value();
  hits["fused_qkv_a"] = when(mla && features.on(Feature::fused_qkv_a));
  hits["fp8_kv_cache"] = when(features.on(Feature::fp8_kv_cache));
  hits["shared_expert_fusion"] = when(
      model.moe && model.moe->shared_experts == 1 && features.on(Feature::shared_expert_fusion)
  );
  hits["routed_scale_in_gate"] = when(model.moe && features.on(Feature::routed_scale_in_gate));
  hits["mla_absorb"] = features.on(Feature::mla_absorb) ? hits_of(stack.counters, "mla_decode") : 0;
  hits["chunked_prefix_mha"] =
      features.on(Feature::chunked_prefix_mha) ? hits_of(stack.counters, "mla_expand") : 0;
  hits["grouped_moe"] =
      features.on(Feature::grouped_moe) ? hits_of(stack.counters, "grouped_moe") : 0;
  add_row_hits(stack.counters, hits);
}

class EngineImpl final : public Engine {
 public:
  EngineImpl(Config config, Features features, Texts texts, std::unique_ptr<ModelStack> stack)
      : config_(std::move(config)),
        features_(std::move(features)),
        texts_(std::move(texts)),
        stack_(std::move(stack)),
        text_(
            *texts_.tokenizer,
            [this](int64_t sequence, int keep) {
              inbox_.send(
                  {.kind = Message::Kind::cancel,
                   .sequence = sequence,
                   .reason = plan::FinishReason::stop,
                   .keep = keep}
              );
            },
            [this](const plan::Request& request) { ended(request); }
        ),
        loop_(
            stack_->scheduler,
            features_.on(Feature::overlap_schedule),
            *stack_->runner,
            text_,
            inbox_
        ) {}

  const Config& config() const override { return config_; }
  const text::Tokenizer& tokenizer() const override { return *texts_.tokenizer; }
  const text::ChatTemplate* chat_template() const override {
    return texts_.chat_template ? &*texts_.chat_template : nullptr;
  }
  int context_length() const override { return stack_->scheduler.context_length; }
  const plan::SamplingParams& default_sampling() const override {
    return texts_.generation.sampling;
  }
  Json info() const override;

  Refusal submit(std::shared_ptr<const plan::Request> request) override;
  void cancel(const std::string& request_id) override;
  void cancel_all() override { inbox_.send({.kind = Message::Kind::cancel_all}); }
  bool flush_cache() override;
  Stats stats() const override;
  void drain(std::chrono::milliseconds deadline) override;

 private:
  struct Live {
    int64_t first_sequence = 0;
    int n = 0;
    int left = 0;  // choices that have not ended
  };
  void ended(const plan::Request& request);
  Refusal queue_refusal(const plan::Request& request);

  Config config_;
  Features features_;
  Texts texts_;
  std::unique_ptr<ModelStack> stack_;
  std::atomic<bool> draining_{false};
  std::mutex mutex_;
  std::unordered_map<std::string, Live> live_;  // guarded by mutex_
  int64_t next_sequence_ = 1;                   // guarded by mutex_
  int unfinished_ = 0;                          // sequences; guarded by mutex_
  Inbox inbox_;                                 // before what sends to it
  TextWorker text_;
  StepLoop loop_;  // last: its thread uses all the others
};

Refusal EngineImpl::queue_refusal(const plan::Request& request) {
  if (draining_) return {.kind = RefusalKind::draining, .message = "the server is shutting down"};
  const int most = config_.max_running_requests + config_.max_queued_requests;
  if (unfinished_ + request.n <= most) return {};
  const LoopStats stats = loop_.stats();
  // As long as the queue's requests would take at the rate of the last second, a minute at most.
  const double per_second = std::max(stats.tokens_per_second / 128, 0.1);
  return {
      .kind = RefusalKind::queue_full,
      .message =
          fmt::format("{} requests are waiting or running, at most {} may", unfinished_, most),
      .retry_after_seconds = static_cast<int>(std::clamp(unfinished_ / per_second, 1.0, 60.0)),
  };
}

Refusal EngineImpl::submit(std::shared_ptr<const plan::Request> request) {
  if (Refusal refusal = sched::check_request(stack_->scheduler, *request); refusal.refused())
    return refusal;
  for (const plan::Token token : request->prompt) {
    if (token < 0 || token >= stack_->model_config().vocab) {
      return {
          .kind = RefusalKind::invalid,
          .message = fmt::format(
              "token id {} is outside the vocabulary of {}", token, stack_->model_config().vocab
          )};
    }
  }
  int64_t first = 0;
  {
    const std::lock_guard lock(mutex_);
    if (Refusal refusal = queue_refusal(*request); refusal.refused()) return refusal;
    if (live_.count(request->id) != 0) {
      return {
          .kind = RefusalKind::invalid,
          .message = fmt::format("a request with the id '{}' is running", request->id)};
    }
    first = next_sequence_;
    next_sequence_ += request->n;
    unfinished_ += request->n;
    live_[request->id] = {first, request->n, request->n};
  }
  for (int choice = 0; choice < request->n; ++choice) text_.open(first + choice, request, choice);
  inbox_.send({.kind = Message::Kind::add, .request = std::move(request), .sequence = first});
  return {};
}

void EngineImpl::ended(const plan::Request& request) {
  const std::lock_guard lock(mutex_);
  --unfinished_;
  const auto found = live_.find(request.id);
  if (found != live_.end() && --found->second.left == 0) live_.erase(found);
}

void EngineImpl::cancel(const std::string& request_id) {
  Live live;
  {
    const std::lock_guard lock(mutex_);
    const auto found = live_.find(request_id);
    if (found == live_.end()) return;
    live = found->second;
  }
  for (int choice = 0; choice < live.n; ++choice) {
    inbox_.send({.kind = Message::Kind::cancel, .sequence = live.first_sequence + choice});
  }
}

bool EngineImpl::flush_cache() {
  const auto answer = std::make_shared<std::promise<bool>>();
  inbox_.send({.kind = Message::Kind::flush, .answer = [answer](bool done) {
                 answer->set_value(done);
               }});
  return answer->get_future().get();
}

void EngineImpl::drain(std::chrono::milliseconds deadline) {
  draining_ = true;
  inbox_.send({.kind = Message::Kind::drain});
  if (loop_.wait_drained(deadline)) return;
  cancel_all();
  loop_.wait_drained(std::chrono::seconds(10));
}

Stats EngineImpl::stats() const {
  const LoopStats loop = loop_.stats();
  const sched::SchedulerStats& s = loop.scheduler;
  const int64_t page = config_.page_size;
  Stats stats;
  stats.running = s.running;
  stats.waiting = s.waiting + s.swapped;
  stats.pages_total = s.pages_total;
  stats.pages_free = s.pages_free;
  stats.pages_tree = s.pages_tree;
  stats.kv_tokens_total = s.pages_total * page;
  stats.kv_tokens_used = (s.pages_total - s.pages_free - s.pages_evictable) * page;
  stats.kv_tokens_evictable = s.pages_evictable * page;
  stats.prompt_tokens = s.prompt_tokens;
  stats.generated_tokens = s.generated_tokens;
  stats.cached_tokens = s.cached_tokens;
  stats.requests = s.requests;
  stats.aborted = s.aborted;
  stats.failed = s.failed;
  stats.preemptions = s.preemptions;
  stats.wasted_rows = s.wasted_rows;
  stats.steps = s.steps;
  const auto ratio = [](int64_t part, int64_t whole) {
    return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
  };
  stats.accept_length = ratio(s.verified_tokens, s.verified_rows);
  stats.accept_rate = ratio(s.drafts_accepted, s.drafts_judged);
  stats.drafts_accepted = s.drafts_accepted;
  stats.draft_levels = s.draft_levels;
  stats.step_host_us = loop.step_host_us;
  stats.generation_tokens_per_second = loop.tokens_per_second;
  stats.feature_hits = {
      {"overlap_schedule", loop.overlapped_steps},
      {"radix_cache", s.cached_tokens},
      {"chunked_prefill", loop.cut_chunks},
      {"mixed_step", s.mixed_steps},
      {"nextn", s.drafts_accepted},
      {"fp8_block_gemm", hits_of(stack_->counters, "fp8_block_gemm")},
      {"w8a8", hits_of(stack_->counters, "w8a8_gemm")},
      {"int8_activations", hits_of(stack_->counters, "gguf_gemm", "_int8")},
      {"bf16_activations", hits_of(stack_->counters, "bf16_gemm", "_rounded")},
      {"cuda_graph", stack_->runner->counters().graph_replays},
  };
  add_deepseek_hits(features_, *stack_, s.steps, stats.feature_hits);
  return stats;
}

Json EngineImpl::info() const {
  Json features = Json::object();
  for (size_t i = 0; i < kFeatureCount; ++i) {
    const auto feature = static_cast<Feature>(i);
    features[std::string(kFeatures[i].name)] = {
        {"on", features_.on(feature)}, {"reason", features_.reason(feature)}};
  }
  Json kernels = Json::object();
  for (const RowCounters::Entry& entry : stack_->counters.entries()) {
    if (entry.row != nullptr) kernels[fmt::format("{}.{}", entry.op, entry.name)] = entry.hits;
  }
  const sched::SchedulerOptions& o = stack_->scheduler;
  const std::optional<runtime::Speculation>& s = stack_->speculation;
  return {
      {"model_path", config_.model_path},
      {"model", stack_->model_config().describe()},
      {"device", stack_->exec.device.describe()},
      {"threads", stack_->pool->size()},
      {"context_length", o.context_length},
      {"page_size", o.page_size},
      {"pages", o.pages},
      {"max_total_num_tokens", int64_t{o.pages - 1} * o.page_size},
      {"max_running_requests", o.max_running},
      {"chunked_prefill_size", config_.chunked_prefill_size},
      {"step_tokens", o.step_tokens},
      {"mixed_step_tokens", o.mixed_step_tokens},
      {"schedule_policy", config_.schedule_policy},
      {"speculation",
       s ? Json{{"steps", s->steps}, {"topk", s->topk}, {"tokens", s->nodes}, {"draft_p_min", s->least}}
         : Json(nullptr)},
      {"features", std::move(features)},
      {"kernel_rows", std::move(kernels)},
      {"memory", stack_->ledger.describe()},
  };
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::open(Config config) {
  const auto start = std::chrono::steady_clock::now();
  Result<Features> features = Features::resolve(config.features);
  if (!features) return features.error();
  Result<Texts> texts = open_texts(config);
  if (!texts) return texts.error();
  Result<std::unique_ptr<ModelStack>> stack =
      open_model_stack(config, *features, end_tokens_of(*texts));
  if (!stack) return stack.error();
  log_debug("memory: {}", (*stack)->ledger.describe());
  std::unique_ptr<Engine> engine = std::make_unique<EngineImpl>(
      std::move(config), std::move(*features), std::move(*texts), std::move(*stack)
  );
  log_debug(
      "ready after {:.0f} ms",
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count()
  );
  return engine;
}

}  // namespace fathom::engine
