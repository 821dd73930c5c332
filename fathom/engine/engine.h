// The engine, as a program embeds it: open a model, submit requests, get text back. Written as if
// public.
//
// Threads: every method may be called from any thread. Sinks are called by the engine's text
// worker.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fathom/base/json_fwd.h"
#include "fathom/base/result.h"
#include "fathom/plan/refusal.h"
#include "fathom/plan/request.h"

namespace fathom::text {
class Tokenizer;
class ChatTemplate;
}  // namespace fathom::text

namespace fathom::engine {

// Capacities and choices of one engine. Defaults are those of `fathom serve`.
struct Config {
  std::string model_path;            // HF directory or .gguf file
  std::string tokenizer_path;        // "" = model_path
  std::string chat_template_path;    // "" = the model's own
  std::string load_format = "auto";  // auto | safetensors | gguf | dummy
  std::string quantization;          // "" | fp8 | w8a8_int8 | w8a8_fp8: make such matrices on load
  std::string device = "auto";       // auto | cpu | cuda
  int threads = 0;                   // CPU threads of a step; 0 = all that this process may use
  int context_length = 0;            // 0 = the model's
  int page_size = 16;                // tokens, 1 .. 64
  int64_t max_total_tokens = 0;      // KV capacity in tokens; 0 = from memory
  int max_running_requests = 64;
  int max_queued_requests = 1024;
  int chunked_prefill_size = 512;        // tokens of prefill a step; -1 = a whole prompt at once
  int max_step_tokens = 0;               // T; 0 = from chunked_prefill_size
  int max_mixed_step_tokens = 0;         // T_mix; 0 = from chunked_prefill_size
  std::string schedule_policy = "fcfs";  // fcfs | lpm | priority
  // Feature chunked_prefix_mha: cached positions from which prompts take the expanded form; less,
  // but any, take the absorbed one.
  int64_t chunked_prefix_threshold = 8192;
  // Feature nextn; SGLang's --speculative-* flags. 0: the default, which depends on the others.
  int speculative_num_steps = 0;
  int speculative_eagle_topk = 0;
  int speculative_num_draft_tokens = 0;
  float speculative_draft_p_min = 0.9f;
  float speculative_accept_threshold_single = 1.0f;
  float speculative_accept_threshold_acc = 1.0f;
  std::vector<std::string> features;  // "+name", "-name", "baseline"
  std::vector<std::string> kernels;   // "op=row": forced rows, for debugging
  uint64_t random_seed = 0;
};

using plan::Refusal;
using plan::RefusalKind;

// A snapshot for /metrics and /server_info.
struct Stats {
  int running = 0, waiting = 0;
  int64_t pages_total = 0, pages_free = 0, pages_tree = 0;
  int64_t kv_tokens_total = 0, kv_tokens_used = 0, kv_tokens_evictable = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0, cached_tokens = 0;  // since start
  int64_t requests = 0, aborted = 0, failed = 0, preemptions = 0, wasted_rows = 0;
  int64_t steps = 0;
  // Of decode rows that verified drafts: tokens a row, those cut by the request's end left out; and
  // the share of drafted tokens accepted, of those that were looked at.
  double accept_length = 0, accept_rate = 0;
  int64_t drafts_accepted = 0;
  int64_t draft_levels = 0;  // of drafted tokens, over all rows that verified them
  double step_host_us = 0;   // median host time a step outside kernels
  double generation_tokens_per_second = 0;
  std::map<std::string, int64_t> feature_hits;
};

class Engine {
 public:
  // Loads the model and starts the threads; progress goes to the log. The Error names the fix.
  static Result<std::unique_ptr<Engine>> open(Config config);
  virtual ~Engine() = default;

  virtual const Config& config() const = 0;
  virtual const text::Tokenizer& tokenizer() const = 0;
  virtual const text::ChatTemplate* chat_template() const = 0;  // null when the model has none
  virtual int context_length() const = 0;
  // Sampling defaults of the model's generation_config.json.
  virtual const plan::SamplingParams& default_sampling() const = 0;
  // Model facts, resolved features with reasons, capacities, memory by purpose.
  virtual Json info() const = 0;

  virtual Refusal submit(std::shared_ptr<const plan::Request> request) = 0;
  virtual void cancel(const std::string& request_id) = 0;  // unknown ids are ignored and counted
  virtual void cancel_all() = 0;
  virtual bool flush_cache() = 0;  // false while requests run (T5)
  virtual Stats stats() const = 0;

  // Refuses new requests, lets accepted ones finish, cancels what is left at the deadline (F4).
  // Returns when quiet.
  virtual void drain(std::chrono::milliseconds deadline) = 0;
};

}  // namespace fathom::engine
