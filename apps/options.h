// Command line pieces that subcommands share: the engine's flags in SGLang's spelling, YAML files
// of flags, and what is said about a flag that does not exist.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "fathom/base/result.h"
#include "fathom/engine/engine.h"

namespace fathom::apps {

// Adds the flags that fill `config`. Both must live until the command line is parsed.
void add_engine_options(CLI::App& app, engine::Config& config);

// Adds the flags that fill `sampling`.
void add_sampling_options(CLI::App& app, plan::SamplingParams& sampling);

// Replaces `--config FILE` by the flags of that YAML file ("chunked-prefill-size: 256"), placed
// first so that the command line wins.
Result<std::vector<std::string>> expand_config(const std::vector<std::string>& arguments);

// "--pgae-size is not a flag of `fathom serve`; did you mean --page-size?"
std::string unknown_flag(const CLI::App& app, const std::string& flag);

// The model that a name or path means: an existing path; a model bundled under ./models or beside
// the program; one in the cache. "" means the default model that ./quickstart fetches.
Result<std::string> resolve_model(const std::string& name);

}  // namespace fathom::apps
