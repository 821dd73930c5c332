// The one program: fathom serve | generate | chat | bench | tokenize | doctor.

#include <iostream>

#include "apps/commands.h"
#include "apps/options.h"

namespace {

using fathom::apps::Command;

int fail(const std::string& message) {
  std::cerr << "fathom: " << message << '\n';
  return 2;
}

std::vector<Command> all_commands(CLI::App& app) {
  return {
      fathom::apps::serve_command(app),
      fathom::apps::generate_command(app),
      fathom::apps::chat_command(app),
      fathom::apps::bench_command(app),
      fathom::apps::eval_command(app),
      fathom::apps::tokenize_command(app),
      fathom::apps::doctor_command(app),
  };
}

// The parsed subcommand that nothing follows.
const CLI::App* innermost(const CLI::App& app) {
  const CLI::App* current = &app;
  while (!current->get_subcommands().empty()) current = current->get_subcommands().front();
  return current;
}

int run(int argc, char** argv) {
  const std::vector<std::string> given(argv + 1, argv + argc);
  fathom::Result<std::vector<std::string>> arguments = fathom::apps::expand_config(given);
  if (!arguments) return fail(arguments.error().message);

  CLI::App app("Serves large language models from one native program.", "fathom");
  app.set_version_flag("--version", std::string("fathom ") + fathom::apps::kVersion);
  app.require_subcommand(1);
  app.footer(
      "`fathom COMMAND --help` tells a command's flags. `--config FILE` reads flags from YAML."
  );
  std::vector<Command> commands = all_commands(app);
  try {
    std::vector<std::string> reversed(arguments->rbegin(), arguments->rend());
    app.parse(reversed);
  } catch (const CLI::ExtrasError& e) {
    const CLI::App* command = innermost(app);
    const std::vector<std::string> extras = command->remaining();
    if (!extras.empty() && extras.front().starts_with('-'))
      return fail(fathom::apps::unknown_flag(*command, extras.front()));
    return fail(e.what());
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);
    return fail(e.what());
  }
  for (Command& command : commands) {
    if (command.app->parsed()) return command.run();
  }
  return fail("no command given");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    return fail(e.what());
  }
}
