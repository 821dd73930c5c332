// fathom tokenize: text to ids, or ids to text, with a model's tokeniser.
#include <iostream>
#include <iterator>

#include "apps/commands.h"
#include "apps/options.h"
#include "fathom/engine/load_tokenizer.h"
#include "fathom/text/tokenizer.h"

namespace fathom::apps {
namespace {

struct Options {
  std::string model;
  std::string text;
  bool decode = false;
  bool no_special = false;
  bool pieces = false;
};

std::string read_input(const Options& options) {
  if (options.text != "-") return options.text;
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

int print_text(const text::Tokenizer& tokenizer, const std::string& input) {
  std::istringstream ids(input);
  std::vector<plan::Token> tokens;
  for (plan::Token token; ids >> token;) tokens.push_back(token);
  if (!ids.eof()) {
    std::cerr << "fathom tokenize --decode: token ids separated by spaces are wanted\n";
    return 1;
  }
  std::cout << tokenizer.decode(tokens, false) << '\n';
  return 0;
}

int tokenize(const Options& options) {
  const Result<std::string> path = resolve_model(options.model);
  const Result<std::unique_ptr<text::Tokenizer>> tokenizer =
      path ? engine::load_tokenizer(*path) : Result<std::unique_ptr<text::Tokenizer>>(path.error());
  if (!tokenizer) {
    std::cerr << "fathom tokenize: " << tokenizer.error().message << '\n';
    return 1;
  }
  const std::string input = read_input(options);
  if (options.decode) return print_text(**tokenizer, input);
  const std::vector<plan::Token> tokens =
      (*tokenizer)->encode(input, {.add_special_tokens = !options.no_special});
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (options.pieces) {
      std::cout << tokens[i] << '\t' << (*tokenizer)->token(tokens[i]) << '\n';
    } else {
      std::cout << (i > 0 ? " " : "") << tokens[i];
    }
  }
  if (!options.pieces) std::cout << '\n';
  return 0;
}

}  // namespace

Command tokenize_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("tokenize", "text to token ids and back");
  command->add_option("text", options->text, "the text; - reads standard input")->required();
  command->add_option(
      "-m,--model,--model-path,--tokenizer-path", options->model, "whose tokeniser"
  );
  command->add_flag("--decode", options->decode, "the text is ids; print what they spell");
  command->add_flag(
      "--no-special", options->no_special, "leave out what the model puts around a text"
  );
  command->add_flag("--pieces", options->pieces, "one token a line, with its spelling");
  return {command, [options] { return tokenize(*options); }};
}

}  // namespace fathom::apps
