// The subcommands. Each file adds its flags to the command line and returns what to run once they
// are parsed.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <vector>

namespace fathom::apps {

inline constexpr const char* kVersion = "0.1.0";

struct Command {
  CLI::App* app = nullptr;
  std::function<int()> run;  // the exit status
};

Command serve_command(CLI::App& app);
Command generate_command(CLI::App& app);
Command chat_command(CLI::App& app);
Command tokenize_command(CLI::App& app);
Command doctor_command(CLI::App& app);
Command bench_command(CLI::App& app);
Command eval_command(CLI::App& app);

}  // namespace fathom::apps
