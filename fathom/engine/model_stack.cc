#include "fathom/engine/model_stack.h"

#include "fathom/base/cpu_features.h"
#include "fathom/base/log.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "fathom/core/device_words.h"
#include "fathom/engine/capacity.h"
#include "fathom/engine/feature_rows.h"
#include "fathom/ops/attention/kv_append.h"
#include "fathom/ops/attention/merge_states.h"
#include "fathom/ops/attention/mla_kv_append.h"
#include "fathom/ops/attention/mla_store.h"
#include "fathom/ops/attention/rope_append.h"
#include "fathom/ops/gemm/gguf_gemm.h"
#include "fathom/ops/moe/grouped_moe.h"
#include "fathom/ops/moe/moe_align.h"
#include "fathom/ops/moe/moe_gate.h"
#include "fathom/ops/norm/rms_norm_quant.h"
#include "fathom/ops/quant/fused_quant.h"

namespace fathom::engine {
namespace {

// "auto" is the CPU: a GPU is asked for by name.
Result<Device> choose_device(const std::string& name) {
  if (name != "cuda") return Device::cpu();
  const Result<std::string> found = describe_device(Device::cuda());
  if (!found) return found.error();
  log_info("{}", *found);
  return Device::cuda();
}

// Leaves out all rows of an op but those named: what a feature that is off falls back to.
template <class Args>
void keep_rows(KernelChoice& kernels, const KernelTable<Args>& table, RowNames kept) {
  for (const KernelRow<Args>& row : table.rows) {
    if (std::ranges::find(kept, row.name) == kept.end())
      kernels.masked.emplace_back(table.op, row.name);
  }
}

// Rows that features of latent attention and of experts leave out when they are off.
void mask_deepseek_rows(const Features& features, KernelChoice& kernels) {
  using namespace rows_without;
  const auto off = [&](Feature feature) { return !features.on(feature); };
  if (off(Feature::moe_gate)) keep_rows(kernels, ops::moe_gate_table(), kVectors);
  if (off(Feature::moe_align)) keep_rows(kernels, ops::moe_align_table(), kVectors);
  if (off(Feature::merge_states)) keep_rows(kernels, ops::merge_states_table(), kVectors);
  if (off(Feature::fused_kv_store)) {
    keep_rows(kernels, ops::mla_kv_append_table(), kVectors);
    keep_rows(kernels, ops::kv_append_table(), kVectors);
  }
  if (off(Feature::fused_kv_store) || off(Feature::fused_rope_store)) {
    keep_rows(kernels, ops::mla_store_table(), kParts);
    keep_rows(kernels, ops::rope_append_table(), kParts);
  }
  if (off(Feature::fused_quant)) {
    keep_rows(kernels, ops::fused_quant_table(), kFusedQuant);
    keep_rows(kernels, ops::rms_norm_quant_table(), kParts);
  }
  // On the CPU "gathered" and rows of few tokens go by experts, and the latter quantise between
  // their products.
  const bool by_token = off(Feature::grouped_moe);
  if (!by_token && !off(Feature::fused_quant)) return;
  for (const KernelRow<ops::GroupedMoe>& row : ops::grouped_moe_table().rows) {
    if (row.device != Device::Kind::cpu || row.name == "by_token" || row.name == "ref") continue;
    if (by_token || row.name != "gathered") kernels.masked.emplace_back("grouped_moe", row.name);
  }
}

// Rows that a switched-off feature leaves out.
void mask_rows(const Features& features, KernelChoice& kernels) {
  if (!features.on(Feature::bf16_activations)) {
    for (const std::string_view op : {"bf16_gemm", "head_gemm", "mla_decode"})
      kernels.masked.emplace_back(op, "avx512_bf16_rounded");
  }
  mask_deepseek_rows(features, kernels);
  if (features.on(Feature::int8_activations)) return;
  for (const KernelRow<ops::GgufGemm>& row : ops::gguf_gemm_table().rows) {
    if (row.name.ends_with("_int8")) kernels.masked.emplace_back("gguf_gemm", row.name);
  }
}

// "op=row" flags. The strings live in the Config, which outlives the engine's kernels.
Result<KernelChoice> forced_kernels(const std::vector<std::string>& flags) {
  KernelChoice choice;
  for (const std::string& flag : flags) {
    const size_t equals = flag.find('=');
    if (equals == std::string::npos)
      return error("--kernel {}: op=row is wanted; `fathom doctor` lists them", flag);
    const std::string_view view = flag;
    choice.forced.emplace_back(view.substr(0, equals), view.substr(equals + 1));
  }
  return choice;
}

// sentence-transformers' way to say it; the last token's hidden state when nothing is said.
runtime::Pooling pooling_of(const std::string& model_path) {
  std::ifstream file(std::filesystem::path(model_path) / "1_Pooling" / "config.json");
  if (!file) return runtime::Pooling::last;
  std::stringstream text;
  text << file.rdbuf();
  const Result<Json> json = parse_json(text.str(), "1_Pooling/config.json");
  return json && json->value("pooling_mode_mean_tokens", false) ? runtime::Pooling::mean
                                                                : runtime::Pooling::last;
}

models::OpenOptions open_options(const Config& config, const Features& features, Device device) {
  models::OpenOptions options;
  options.model.nextn = features.on(Feature::nextn);
  options.model.fuse_shared_expert = features.on(Feature::shared_expert_fusion);
  options.model.scale_in_gate = features.on(Feature::routed_scale_in_gate);
  options.model.fp8_kv = features.on(Feature::fp8_kv_cache);
  options.model.mla = {
      .expanded_prompts = features.on(Feature::chunked_prefix_mha),
      .threshold = config.chunked_prefix_threshold,
      .absorbed_decode = features.on(Feature::mla_absorb),
      .joined_down = features.on(Feature::fused_qkv_a),
  };
  if (features.on(Feature::fp8_block_gemm))
    options.fp8 =
        config.quantization == "fp8" ? weights::Fp8Weights::make : weights::Fp8Weights::keep;
  if (features.on(Feature::w8a8)) {
    using weights::ChannelWeights;
    options.channels = config.quantization == "w8a8_int8"  ? ChannelWeights::make_int8
                       : config.quantization == "w8a8_fp8" ? ChannelWeights::make_fp8
                                                           : ChannelWeights::keep;
  }
  options.model.kv_dtype = DType::f16;
  options.model.bf16_latents =
      features.on(Feature::bf16_activations) && cpu_has(CpuLevel::avx512_bf16);
  if (device.is_cuda()) {
    options.model.activations = options.model.kv_dtype = DType::bf16;
    options.model.mla.expanded_prompts = false;  // its chunks are cut on the host
  }
  options.dummy = config.load_format == "dummy";
  options.dummy_seed = config.random_seed;
  options.progress = [last = 0.0](const weights::Progress& p) mutable {
    if (p.bytes_total == 0) return;
    const double share = static_cast<double>(p.bytes_done) / static_cast<double>(p.bytes_total);
    if (share - last < 0.25 || p.bytes_total < (int64_t{1} << 30)) return;
    last = share;
    log_info(
        "weights: {:.0f} % of {:.1f} GB", share * 100, static_cast<double>(p.bytes_total) / 1e9
    );
  };
  return options;
}

Result<void> make_exec(ModelStack& stack, Device device) {
  stack.queue = DeviceQueue::open(device);
  stack.exec = {
      .device = device,
      .pool = stack.pool.get(),
      .kernels = &stack.kernels,
      .counters = &stack.counters,
      .profile = &stack.profile,
      .stream = stack.queue->stream(),
  };
  if (device.is_cpu()) return {};
  Result<Buffer> words =
      Buffer::allocate(stack.ledger, device, kDeviceWordBytes, Purpose::workspace);
  if (!words) return words.error();
  stack.semaphores = std::move(*words);
  stack.exec.semaphores = static_cast<uint32_t*>(stack.semaphores.data());
  return {};
}

Result<void> make_runner(
    ModelStack& stack,
    const runtime::StepCapacity& step,
    runtime::RunnerOptions options,
    const std::optional<runtime::Speculation>& drafts
) {
  const models::Model& model = *stack.opened.model;
  if (drafts) {
    Result<std::unique_ptr<runtime::NextnRunner>> runner = runtime::NextnRunner::make(
        model,
        stack.cache,
        stack.exec,
        *stack.queue,
        stack.ledger,
        step,
        std::move(options),
        *drafts
    );
    if (!runner) return runner.error();
    stack.runner = std::move(*runner);
    return {};
  }
  Result<std::unique_ptr<runtime::ModelRunner>> runner = runtime::ModelRunner::make(
      model, stack.cache, stack.exec, *stack.queue, stack.ledger, step, std::move(options)
  );
  if (!runner) return runner.error();
  stack.runner = std::move(*runner);
  return {};
}

}  // namespace

Result<std::unique_ptr<ModelStack>> open_model_stack(
    const Config& config,
    const Features& features,
    std::vector<plan::Token> end_tokens,
    const std::function<void(std::string_view name, const Tensor&)>* probe
) {
  auto stack = std::make_unique<ModelStack>();
  const Result<Device> device = choose_device(config.device);
  if (!device) return device.error();
  if (config.quantization == "fp8" && !features.on(Feature::fp8_block_gemm))
    return error("--quantization fp8 needs feature fp8_block_gemm");
  if (device->is_cuda() && !features.on(Feature::mla_absorb))
    return error("feature mla_absorb: on a GPU latent attention has the absorbed form alone");
  if (device->is_cuda() && !features.on(Feature::routed_scale_in_gate))
    return error("feature routed_scale_in_gate: on a GPU the factor is in the gate's weights");
  Result<KernelChoice> kernels = forced_kernels(config.kernels);
  if (!kernels) return kernels.error();
  stack->kernels = std::move(*kernels);
  mask_rows(features, stack->kernels);
  stack->pool = std::make_unique<ThreadPool>(config.threads > 0 ? config.threads : usable_cpus());
  if (const Result<void> made = make_exec(*stack, *device); !made) return made.error();
  stack->exec.probe = probe;
  Result<models::OpenedModel> opened = models::open_model(
      config.model_path, stack->exec, stack->ledger, open_options(config, features, *device)
  );
  if (!opened) return opened.error();
  stack->opened = std::move(*opened);
  const models::Model& model = *stack->opened.model;
  if (features.on(Feature::fp8_kv_cache) && !stack->opened.config.mla) {
    return error("feature fp8_kv_cache: {} caches no latents", stack->opened.config.architecture);
  }

  const Result<std::optional<runtime::Speculation>> drafts = speculation(config, features);
  if (!drafts) return drafts.error();
  if (*drafts && model.nextn() == nullptr) {
    return error(
        "speculative decoding (feature nextn): {} has no MTP layer to draft with",
        stack->opened.config.architecture
    );
  }
  stack->speculation = *drafts;
  Result<sched::SchedulerOptions> options = step_capacities(
      config,
      features,
      stack->opened.config.context,
      *drafts ? (*drafts)->lookahead() : plan::Lookahead{}
  );
  if (!options) return options.error();
  const Result<int> pages = kv_pages(config, *device, model.kv_layout(), options->context_length);
  if (!pages) return pages.error();
  options->pages = *pages;
  options->end_tokens = end_tokens;
  const runtime::Pooling pooling = pooling_of(config.model_path);
  options->embedding_needs_all = pooling == runtime::Pooling::mean;
  if (const Result<void> valid = sched::validate(*options); !valid) return valid.error();

  Result<layers::KvCache> cache = layers::KvCache::allocate(
      stack->ledger, *device, model.kv_layout(), *pages, config.page_size
  );
  if (!cache) return cache.error();
  stack->cache = std::move(*cache);
  runtime::StepCapacity step = largest_step(*options);
  step.trees = *drafts && (*drafts)->topk > 1;
  step.last_position = static_cast<int32_t>(stack->opened.config.context) - 1;
  runtime::RunnerOptions runner_options{
      .end_tokens = std::move(end_tokens),
      .pooling = pooling,
      .graphs = features.on(Feature::cuda_graph),
  };
  Result<void> made = make_runner(*stack, step, std::move(runner_options), *drafts);
  if (!made) return made.error();
  stack->scheduler = std::move(*options);
  return stack;
}

}  // namespace fathom::engine
