#include "apps/options.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>
#include "fathom/base/log.h"

#include <filesystem>

#include "fathom/base/config.h"
#include "fathom/base/suggest.h"

namespace fathom::apps {
namespace {

constexpr const char* kDefaultModel = "SmolLM2-135M-Instruct.Q4_1.gguf";

// Flags of SGLang that ask for something that is always so here, or that cannot matter: accepted,
// and said once.
struct AcceptedFlag {
  const char* name;
  bool takes_value;
  const char* note;
};
constexpr AcceptedFlag kAccepted[] = {
    {"--trust-remote-code", false, "models hold no code here"},
    {"--skip-server-warmup", false, "there is no warm-up"},
    {"--disable-cuda-graph-padding", false, "graphs are captured by bucket"},
    {"--mem-fraction-static", true, "memory is planned exactly; use --max-total-tokens"},
    {"--watchdog-timeout", true, "the step loop has its own"},
    {"--attention-backend", true, "kernels are chosen by table; see --kernel and `fathom doctor`"},
    {"--sampling-backend", true, "kernels are chosen by table; see --kernel and `fathom doctor`"},
    {"--tokenizer-mode", true, "there is one tokeniser"},
    {"--tokenizer-worker-num", true, "tokenising runs on the server's threads"},
    {"--enable-metrics", false, "metrics are always on"},
};

void add_accepted_flags(CLI::App& app) {
  for (const AcceptedFlag& flag : kAccepted) {
    const auto say = [flag] { log_info("{} has no effect: {}", flag.name, flag.note); };
    if (flag.takes_value) {
      app.add_option_function<std::string>(
             flag.name, [say](const std::string&) { say(); }
      )->group("");
    } else {
      app.add_flag_callback(flag.name, say)->group("");
    }
  }
}

void add_capacity_options(CLI::App& app, engine::Config& config) {
  app.add_option(
      "--context-length",
      config.context_length,
      "positions a request may span (default: the model's)"
  );
  app.add_option("--page-size", config.page_size, "tokens in a KV page, 1 to 64")
      ->check(CLI::Range(1, 64));
  app.add_option(
      "--max-total-tokens", config.max_total_tokens, "KV capacity in tokens (default: from memory)"
  );
  app.add_option(
         "--max-running-requests", config.max_running_requests, "sequences that run at once"
  )
      ->check(CLI::Range(1, 4096));
  app.add_option(
      "--max-queued-requests", config.max_queued_requests, "requests that may wait; beyond: 429"
  );
  app.add_option(
      "--chunked-prefill-size",
      config.chunked_prefill_size,
      "tokens of prefill in a step; -1: whole prompts"
  );
  app.add_option(
      "--max-step-tokens", config.max_step_tokens, "tokens of a step without decode rows"
  );
  app.add_option(
      "--max-mixed-step-tokens", config.max_mixed_step_tokens, "tokens of a step with decode rows"
  );
  app.add_option(
         "--schedule-policy", config.schedule_policy, "fcfs, lpm (longest prefix match) or priority"
  )
      ->check(CLI::IsMember({"fcfs", "lpm", "priority"}));
}

void add_feature_options(CLI::App& app, engine::Config& config) {
  const auto switches = [&config](const char* value) {
    return [&config, value] { config.features.emplace_back(value); };
  };
  app.add_option(
         "--feature", config.features, "+name, -name, or baseline; `fathom doctor` lists the names"
  )
      ->allow_extra_args(false)
      ->take_all();
  app.add_flag_callback(
      "--disable-radix-cache", switches("-radix_cache"), "same as --feature=-radix_cache"
  );
  app.add_flag_callback(
      "--disable-overlap-schedule",
      switches("-overlap_schedule"),
      "same as --feature=-overlap_schedule"
  );
  app.add_flag_callback(
      "--disable-cuda-graph", switches("-cuda_graph"), "same as --feature=-cuda_graph"
  );
  app.add_flag_callback(
      "--enable-mixed-chunk", switches("+mixed_step"), "same as --feature=+mixed_step"
  );
  app.add_option(
         "--chunked-prefix-threshold",
         config.chunked_prefix_threshold,
         "feature chunked_prefix_mha: from so many cached positions on prompts attend to expanded "
         "keys"
  )
      ->check(CLI::NonNegativeNumber);
  app.add_option_function<std::string>(
         "--speculative-algorithm",
         [&config](const std::string&) { config.features.emplace_back("+nextn"); },
         "NEXTN or EAGLE: draft with the model's MTP layer; same as --feature=+nextn"
  )
      ->check(CLI::IsMember({"NEXTN", "EAGLE"}));
  app.add_option(
         "--speculative-num-steps", config.speculative_num_steps, "levels of drafted tokens"
  )
      ->check(CLI::Range(1, 16));
  app.add_option(
         "--speculative-eagle-topk",
         config.speculative_eagle_topk,
         "branches of a level; 1: a chain"
  )
      ->check(CLI::Range(1, 16));
  app.add_option(
         "--speculative-num-draft-tokens",
         config.speculative_num_draft_tokens,
         "tokens that a request verifies in a step, the last known one included"
  )
      ->check(CLI::Range(2, 64));
  app.add_option(
         "--speculative-draft-p-min",
         config.speculative_draft_p_min,
         "a chain is drafted on behind tokens that the draft layer holds so likely in all"
  )
      ->check(CLI::Range(0.0, 1.0));
  app.add_option(
      "--speculative-accept-threshold-single",
      config.speculative_accept_threshold_single,
      "below 1: accept a drafted token of this probability (not the model's law)"
  );
  app.add_option(
      "--speculative-accept-threshold-acc",
      config.speculative_accept_threshold_acc,
      "below 1: accept more drafted tokens by dividing their probabilities (not the model's law)"
  );
  app.add_option("--kernel", config.kernels, "op=row: force a kernel row, for debugging")
      ->allow_extra_args(false)
      ->take_all();
}

}  // namespace

void add_engine_options(CLI::App& app, engine::Config& config) {
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.add_option(
      "-m,--model,--model-path",
      config.model_path,
      "HF directory, .gguf file, or a bundled model's name"
  );
  app.add_option(
      "--tokenizer-path", config.tokenizer_path, "where the tokeniser is (default: with the model)"
  );
  app.add_option(
      "--chat-template",
      config.chat_template_path,
      "Jinja file that replaces the model's own template"
  );
  app.add_option(
         "--load-format", config.load_format, "auto, safetensors, gguf or dummy (random weights)"
  )
      ->check(CLI::IsMember({"auto", "safetensors", "gguf", "dummy"}));
  app.add_option(
         "--quantization",
         config.quantization,
         "quantise a BF16 checkpoint on load: fp8 in blocks of 128x128; w8a8_int8, w8a8_fp8 per "
         "output channel"
  )
      ->check(CLI::IsMember({"fp8", "w8a8_int8", "w8a8_fp8"}));
  app.add_option("--device", config.device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.add_option(
      "-t,--threads", config.threads, "CPU threads of a step (default: all that may be used)"
  );
  app.add_option(
      "--random-seed", config.random_seed, "seed of random weights and of requests without a seed"
  );
  add_capacity_options(app, config);
  add_feature_options(app, config);
  add_accepted_flags(app);
}

void add_sampling_options(CLI::App& app, plan::SamplingParams& sampling) {
  app.add_option("-n,--max-new-tokens", sampling.max_new_tokens, "most tokens of the answer");
  app.add_option("--temperature", sampling.temperature, "0: always the likeliest token");
  app.add_option(
      "--top-p", sampling.top_p, "draw from the likeliest tokens that make up this share"
  );
  app.add_option("--top-k", sampling.top_k, "draw from so many likeliest tokens; 0: all");
  app.add_option(
      "--min-p", sampling.min_p, "draw from tokens of at least this share of the likeliest"
  );
  app.add_option("--seed", sampling.seed, "same seed, same text");
  app.add_option("--stop", sampling.stop, "stop at this text");
  app.add_flag("--ignore-eos", sampling.ignore_eos, "do not stop at the model's end token");
}

Result<std::vector<std::string>> expand_config(const std::vector<std::string>& arguments) {
  std::vector<std::string> from_file, rest;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string path;
    if (arguments[i] == "--config" && i + 1 < arguments.size()) {
      path = arguments[++i];
    } else if (arguments[i].rfind("--config=", 0) == 0) {
      path = arguments[i].substr(9);
    } else {
      rest.push_back(arguments[i]);
      continue;
    }
    try {
      const YAML::Node file = YAML::LoadFile(path);
      if (!file.IsMap()) return error("--config {}: a YAML map of flags is wanted", path);
      for (const auto& entry : file) {
        const std::string flag = "--" + entry.first.as<std::string>();
        const std::vector<YAML::Node> values =
            entry.second.IsSequence()
                ? std::vector<YAML::Node>(entry.second.begin(), entry.second.end())
                : std::vector<YAML::Node>{entry.second};
        for (const YAML::Node& value : values) {
          const auto text = value.as<std::string>();
          if (text == "false") continue;
          from_file.push_back(text == "true" ? flag : fmt::format("{}={}", flag, text));
        }
      }
    } catch (const YAML::Exception& e) {
      return error("--config {}: {}", path, e.what());
    }
  }
  // The subcommand's name stays first.
  const auto place = rest.begin() + (rest.empty() ? 0 : 1);
  rest.insert(place, from_file.begin(), from_file.end());
  return rest;
}

std::string unknown_flag(const CLI::App& app, const std::string& flag) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  const std::vector<std::string_view> views(names.begin(), names.end());
  const std::string bare = flag.substr(0, flag.find('='));
  return fmt::format(
      "{} is not a flag of `fathom {}`; did you mean {}? `fathom {} --help` lists all",
      bare,
      app.get_name(),
      nearest(bare, views),
      app.get_name()
  );
}

Result<std::string> resolve_model(const std::string& name) {
  namespace fs = std::filesystem;
  const std::string cached = cache_directory() + "/models/";
  if (name.empty()) {
    if (fs::exists(cached + kDefaultModel)) return cached + kDefaultModel;
    return error(
        "no --model given, and the default model is not in {}: run ./quickstart once to fetch it",
        cached
    );
  }
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  std::vector<fs::path> places = {
      name, fs::path("models") / name, cached + name, cached + name + ".gguf"};
  for (fs::path above = program; above.has_relative_path(); above = above.parent_path()) {
    places.push_back(above / "models" / name);
  }
  for (const fs::path& place : places) {
    if (fs::exists(place, ignored)) return place.string();
  }
  return error(
      "--model {}: no such file or directory, no bundled model of that name, none in {}",
      name,
      cached
  );
}

}  // namespace fathom::apps
