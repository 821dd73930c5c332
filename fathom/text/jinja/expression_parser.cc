#include "fathom/text/jinja/expression_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "fathom/text/jinja/library.h"
#include "fathom/text/jinja/value.h"

namespace fathom::text::jinja {
namespace {

constexpr int kMaxNesting = 100;  // of brackets in the source
constexpr int kMaxDepth = 500;    // of the tree: long chains of operators make it deep

std::vector<ExpressionPtr> operands_of() {
  return {};
}
template <class... Rest>
std::vector<ExpressionPtr> operands_of(ExpressionPtr first, Rest... rest) {
  std::vector<ExpressionPtr> operands;
  operands.push_back(std::move(first));
  (operands.push_back(std::move(rest)), ...);
  return operands;
}

int depth_of(const ExpressionPtr& node) {
  return node == nullptr ? 0 : node->depth;
}

}  // namespace

// Counts one level of recursion.
class ExpressionParser::Nesting {
 public:
  explicit Nesting(ExpressionParser& parser) : parser_(parser) {
    if (++parser_.nesting_ > kMaxNesting) parser_.tokens_.fail("expressions nest too deep");
  }
  ~Nesting() { --parser_.nesting_; }

 private:
  ExpressionParser& parser_;
};

// Computes the depth of a node whose children are in place.
ExpressionPtr ExpressionParser::sealed(ExpressionPtr node) {
  int depth = 0;
  for (const auto& operand : node->operands) depth = std::max(depth, depth_of(operand));
  const CallArguments& arguments = node->arguments;
  for (const auto& argument : arguments.positional) depth = std::max(depth, depth_of(argument));
  for (const auto& [name, value] : arguments.keywords) depth = std::max(depth, depth_of(value));
  depth = std::max({depth, depth_of(arguments.star), depth_of(arguments.double_star)});
  node->depth = depth + 1;
  if (node->depth > kMaxDepth) tokens_.fail("an expression is too long");
  return node;
}

ExpressionPtr ExpressionParser::make(
    ExpressionKind kind, int line, std::vector<ExpressionPtr> operands
) {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  node->operands = std::move(operands);
  return sealed(std::move(node));
}

ExpressionPtr ExpressionParser::parse() {
  const Nesting nesting(*this);
  ExpressionPtr node = parse_or();
  while (tokens_.at_name("if")) {
    const int line = tokens_.next().line;
    ExpressionPtr condition = parse_or();
    ExpressionPtr otherwise = tokens_.skip_name("else") ? parse() : nullptr;
    node = make(
        ExpressionKind::conditional,
        line,
        operands_of(std::move(condition), std::move(node), std::move(otherwise))
    );
  }
  return node;
}

ExpressionPtr ExpressionParser::parse_tuple() {
  const int line = tokens_.line();
  ExpressionPtr first = parse();
  if (!tokens_.at_symbol(",")) return first;
  ExpressionPtr tuple = make(ExpressionKind::tuple, line, operands_of(std::move(first)));
  const auto ends = [&] {
    return tokens_.at(TokenKind::block_end) || tokens_.at(TokenKind::variable_end) ||
           tokens_.at_symbol(")") || tokens_.at_symbol("]") || tokens_.at_symbol("=");
  };
  while (tokens_.skip_symbol(",") && !ends()) tuple->operands.push_back(parse());
  return sealed(std::move(tuple));
}

ExpressionPtr ExpressionParser::parse_loop_source() {
  const int line = tokens_.line();
  ExpressionPtr first = parse_or();
  if (!tokens_.at_symbol(",")) return first;
  ExpressionPtr tuple = make(ExpressionKind::tuple, line, operands_of(std::move(first)));
  while (tokens_.skip_symbol(",")) tuple->operands.push_back(parse_or());
  return sealed(std::move(tuple));
}

ExpressionPtr ExpressionParser::parse_target_item() {
  const Nesting nesting(*this);
  if (tokens_.skip_symbol("(")) {
    ExpressionPtr inner = parse_target();
    tokens_.expect_symbol(")");
    return inner;
  }
  ExpressionPtr node = make(ExpressionKind::name, tokens_.line(), operands_of());
  node->name = tokens_.expect(TokenKind::name, "a name to assign to");
  constexpr std::string_view kReserved[] = {"true", "false", "none", "True", "False", "None"};
  if (std::find(std::begin(kReserved), std::end(kReserved), node->name) != std::end(kReserved)) {
    tokens_.fail(fmt::format("cannot assign to \"{}\"", node->name));
  }
  if (!tokens_.at_symbol(".")) return node;
  const int line = tokens_.next().line;
  ExpressionPtr attribute = make(ExpressionKind::attribute, line, operands_of(std::move(node)));
  attribute->name = tokens_.expect(TokenKind::name, "an attribute's name");
  return attribute;
}

ExpressionPtr ExpressionParser::parse_target() {
  const int line = tokens_.line();
  ExpressionPtr first = parse_target_item();
  if (!tokens_.at_symbol(",")) return first;
  ExpressionPtr tuple = make(ExpressionKind::tuple, line, operands_of(std::move(first)));
  while (tokens_.skip_symbol(",") && (tokens_.at(TokenKind::name) || tokens_.at_symbol("("))) {
    if (tokens_.at_name("in")) break;
    tuple->operands.push_back(parse_target_item());
  }
  return sealed(std::move(tuple));
}

ExpressionPtr ExpressionParser::parse_or() {
  ExpressionPtr left = parse_and();
  while (tokens_.at_name("or")) {
    const int line = tokens_.next().line;
    left = make(ExpressionKind::logical_or, line, operands_of(std::move(left), parse_and()));
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_and() {
  ExpressionPtr left = parse_not();
  while (tokens_.at_name("and")) {
    const int line = tokens_.next().line;
    left = make(ExpressionKind::logical_and, line, operands_of(std::move(left), parse_not()));
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!tokens_.at_name("not")) return parse_compare();
  const Nesting nesting(*this);
  const int line = tokens_.next().line;
  return make(ExpressionKind::logical_not, line, operands_of(parse_not()));
}

bool ExpressionParser::parse_comparison(Comparison& comparison) {
  constexpr std::pair<std::string_view, Comparison> kSymbols[] = {
      {"==", Comparison::equal},
      {"!=", Comparison::not_equal},
      {"<=", Comparison::less_equal},
      {">=", Comparison::greater_equal},
      {"<", Comparison::less},
      {">", Comparison::greater},
  };
  for (const auto& [symbol, meaning] : kSymbols) {
    comparison = meaning;
    if (tokens_.skip_symbol(symbol)) return true;
  }
  comparison = Comparison::in;
  if (tokens_.skip_name("in")) return true;
  if (!tokens_.at_name("not") || !TokenStream::is_name(tokens_.peek(), "in")) return false;
  tokens_.next();
  tokens_.next();
  comparison = Comparison::not_in;
  return true;
}

ExpressionPtr ExpressionParser::parse_compare() {
  const int line = tokens_.line();
  ExpressionPtr first = parse_sum();
  Comparison comparison;
  if (!parse_comparison(comparison)) return first;
  ExpressionPtr node = make(ExpressionKind::compare, line, operands_of(std::move(first)));
  do {
    node->operators.push_back(comparison);
    node->operands.push_back(parse_sum());
  } while (parse_comparison(comparison));
  return sealed(std::move(node));
}

ExpressionPtr ExpressionParser::parse_sum() {
  ExpressionPtr left = parse_concatenation();
  while (tokens_.at_symbol("+") || tokens_.at_symbol("-")) {
    const LexerToken symbol = tokens_.next();
    left = make(
        ExpressionKind::binary, symbol.line, operands_of(std::move(left), parse_concatenation())
    );
    left->name = symbol.text;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_concatenation() {
  const int line = tokens_.line();
  ExpressionPtr first = parse_product();
  if (!tokens_.at_symbol("~")) return first;
  ExpressionPtr node = make(ExpressionKind::concatenate, line, operands_of(std::move(first)));
  while (tokens_.skip_symbol("~")) node->operands.push_back(parse_product());
  return sealed(std::move(node));
}

ExpressionPtr ExpressionParser::parse_product() {
  ExpressionPtr left = parse_power();
  while (tokens_.at_symbol("*") || tokens_.at_symbol("/") || tokens_.at_symbol("//") ||
         tokens_.at_symbol("%")) {
    const LexerToken symbol = tokens_.next();
    left = make(ExpressionKind::binary, symbol.line, operands_of(std::move(left), parse_power()));
    left->name = symbol.text;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_power() {
  ExpressionPtr left = parse_unary(true);
  while (tokens_.at_symbol("**")) {
    const int line = tokens_.next().line;
    left = make(ExpressionKind::binary, line, operands_of(std::move(left), parse_unary(true)));
    left->name = "**";
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
  ExpressionPtr node;
  if (tokens_.at_symbol("-") || tokens_.at_symbol("+")) {
    const Nesting nesting(*this);
    const LexerToken sign = tokens_.next();
    const auto kind = sign.text == "-" ? ExpressionKind::negative : ExpressionKind::positive;
    node = make(kind, sign.line, operands_of(parse_unary(false)));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filters ? parse_filters(std::move(node), false) : std::move(node);
}

ExpressionPtr ExpressionParser::parse_primary() {
  switch (tokens_.current().kind) {
    case TokenKind::name:
      return parse_name();
    case TokenKind::string:
    case TokenKind::integer:
    case TokenKind::number:
      return parse_literal();
    default:
      break;
  }
  if (tokens_.at_symbol("(")) return parse_parentheses();
  if (tokens_.at_symbol("[")) return parse_list();
  if (tokens_.at_symbol("{")) return parse_dict();
  tokens_.fail("expected an expression");
}

ExpressionPtr ExpressionParser::parse_name() {
  const LexerToken token = tokens_.next();
  ExpressionPtr node = make(ExpressionKind::constant, token.line, operands_of());
  if (token.text == "true" || token.text == "True") {
    node->constant = true;
  } else if (token.text == "false" || token.text == "False") {
    node->constant = false;
  } else if (token.text != "none" && token.text != "None") {
    node->kind = ExpressionKind::name;
    node->name = token.text;
    names_read_.insert(token.text);
  }
  return node;
}

ExpressionPtr ExpressionParser::parse_literal() {
  const LexerToken token = tokens_.next();
  ExpressionPtr node = make(ExpressionKind::constant, token.line, operands_of());
  const char* begin = token.text.data();
  const char* end = begin + token.text.size();
  if (token.kind == TokenKind::string) {
    std::string text = token.text;
    while (tokens_.at(TokenKind::string)) text += tokens_.next().text;
    node->constant = std::move(text);
  } else if (token.kind == TokenKind::integer) {
    int64_t value = 0;
    const auto [stop, failure] = std::from_chars(begin, end, value);
    if (failure != std::errc() || stop != end) tokens_.fail("a number is too large");
    node->constant = value;
  } else {
    double value = 0;
    const auto [stop, failure] = std::from_chars(begin, end, value);
    if (failure != std::errc() || stop != end) tokens_.fail("a number is too large");
    node->constant = value;
  }
  return node;
}

ExpressionPtr ExpressionParser::parse_parentheses() {
  const int line = tokens_.next().line;
  if (tokens_.skip_symbol(")")) return make(ExpressionKind::tuple, line, operands_of());
  ExpressionPtr inner = parse_tuple();
  tokens_.expect_symbol(")");
  return inner;
}

ExpressionPtr ExpressionParser::parse_list() {
  ExpressionPtr list = make(ExpressionKind::list, tokens_.next().line, operands_of());
  while (!tokens_.at_symbol("]")) {
    if (!list->operands.empty()) tokens_.expect_symbol(",");
    if (tokens_.at_symbol("]")) break;
    list->operands.push_back(parse());
  }
  tokens_.expect_symbol("]");
  return sealed(std::move(list));
}

ExpressionPtr ExpressionParser::parse_dict() {
  ExpressionPtr dict = make(ExpressionKind::dict, tokens_.next().line, operands_of());
  while (!tokens_.at_symbol("}")) {
    if (!dict->operands.empty()) tokens_.expect_symbol(",");
    if (tokens_.at_symbol("}")) break;
    dict->operands.push_back(parse());
    tokens_.expect_symbol(":");
    dict->operands.push_back(parse());
  }
  tokens_.expect_symbol("}");
  return sealed(std::move(dict));
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr node) {
  while (true) {
    if (tokens_.at_symbol(".") || tokens_.at_symbol("[")) {
      node = parse_subscript(std::move(node));
    } else if (tokens_.at_symbol("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr node) {
  const LexerToken opening = tokens_.next();
  if (opening.text == ".") {
    if (tokens_.at(TokenKind::integer)) {
      return make(
          ExpressionKind::item, opening.line, operands_of(std::move(node), parse_literal())
      );
    }
    node = make(ExpressionKind::attribute, opening.line, operands_of(std::move(node)));
    node->name = tokens_.expect(TokenKind::name, "an attribute's name");
    return node;
  }
  ExpressionPtr index = tokens_.at_symbol(":") ? nullptr : parse_tuple();
  if (tokens_.at_symbol(":")) {
    node = parse_slice(std::move(node), std::move(index), opening.line);
  } else {
    node = make(ExpressionKind::item, opening.line, operands_of(std::move(node), std::move(index)));
  }
  tokens_.expect_symbol("]");
  return node;
}

ExpressionPtr ExpressionParser::parse_slice(ExpressionPtr node, ExpressionPtr first, int line) {
  ExpressionPtr bounds[2];
  for (ExpressionPtr& bound : bounds) {
    if (!tokens_.skip_symbol(":")) break;
    if (!tokens_.at_symbol(":") && !tokens_.at_symbol("]")) bound = parse();
  }
  return make(
      ExpressionKind::slice,
      line,
      operands_of(std::move(node), std::move(first), std::move(bounds[0]), std::move(bounds[1]))
  );
}

CallArguments ExpressionParser::parse_arguments() {
  CallArguments arguments;
  tokens_.expect_symbol("(");
  for (bool first = true; !tokens_.at_symbol(")"); first = false) {
    if (!first) tokens_.expect_symbol(",");
    if (tokens_.at_symbol(")")) break;
    if (tokens_.skip_symbol("*")) {
      if (arguments.star != nullptr) tokens_.fail("a second *argument");
      arguments.star = parse();
    } else if (tokens_.skip_symbol("**")) {
      if (arguments.double_star != nullptr) tokens_.fail("a second **argument");
      arguments.double_star = parse();
    } else if (tokens_.at(TokenKind::name) && TokenStream::is_symbol(tokens_.peek(), "=")) {
      std::string name = tokens_.next().text;
      tokens_.next();
      arguments.keywords.emplace_back(std::move(name), parse());
    } else {
      if (!arguments.keywords.empty()) tokens_.fail("a positional argument after a named one");
      arguments.positional.push_back(parse());
    }
  }
  tokens_.expect_symbol(")");
  return arguments;
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr node) {
  const Nesting nesting(*this);
  node = make(ExpressionKind::call, tokens_.line(), operands_of(std::move(node)));
  node->arguments = parse_arguments();
  return sealed(std::move(node));
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr value, bool first_without_pipe) {
  const Nesting nesting(*this);
  for (bool bare = first_without_pipe;; bare = false) {
    if (bare || tokens_.at_symbol("|")) {
      const int line = bare ? tokens_.line() : tokens_.next().line;
      value = make(ExpressionKind::filter, line, operands_of(std::move(value)));
      value->name = tokens_.expect(TokenKind::name, "a filter's name");
      if (find_filter(value->name) == nullptr) {
        tokens_.fail(fmt::format("there is no filter \"{}\"", value->name));
      }
      if (tokens_.at_symbol("(")) value->arguments = parse_arguments();
      value = sealed(std::move(value));
    } else if (!first_without_pipe && tokens_.at_name("is")) {
      value = parse_test(std::move(value));
    } else if (!first_without_pipe && tokens_.at_symbol("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr node) {
  const int line = tokens_.next().line;
  const bool negated = tokens_.skip_name("not");
  node = make(ExpressionKind::test, line, operands_of(std::move(node)));
  node->name = tokens_.expect(TokenKind::name, "a test's name");
  if (find_test(node->name) == nullptr) {
    tokens_.fail(fmt::format("there is no test \"{}\"", node->name));
  }
  const TokenKind kind = tokens_.current().kind;
  const bool literal = kind == TokenKind::string || kind == TokenKind::integer ||
                       kind == TokenKind::number || tokens_.at_symbol("[") ||
                       tokens_.at_symbol("{");
  const bool name = kind == TokenKind::name && !tokens_.at_name("else") && !tokens_.at_name("or") &&
                    !tokens_.at_name("and") && !tokens_.at_name("if") && !tokens_.at_name("in") &&
                    !tokens_.at_name("not");
  if (tokens_.at_name("is")) tokens_.fail("tests cannot be chained with \"is\"");
  if (tokens_.at_symbol("(")) {
    node->arguments = parse_arguments();
  } else if (literal || name) {
    node->arguments.positional.push_back(parse_postfix(parse_primary()));
  }
  node = sealed(std::move(node));
  if (!negated) return node;
  return make(ExpressionKind::logical_not, line, operands_of(std::move(node)));
}

}  // namespace fathom::text::jinja
