// Parses expressions: Jinja's operators from the loosest to the tightest.
#pragma once

#include <set>
#include <string>

#include "fathom/text/jinja/ast.h"
#include "fathom/text/jinja/token_stream.h"

namespace fathom::text::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& tokens) : tokens_(tokens) {}

  // `a if b else c` and all that binds tighter.
  ExpressionPtr parse();
  // One expression, or several with commas between them as a tuple.
  ExpressionPtr parse_tuple();
  // As parse_tuple, but `if` is left for the loop's condition.
  ExpressionPtr parse_loop_source();
  // What may be assigned to: a name, names with commas between them, or namespace.attribute.
  ExpressionPtr parse_target();
  // filter(arguments) | filter ..., applied to a value that is not there yet.
  ExpressionPtr parse_filters(ExpressionPtr value, bool first_without_pipe);
  CallArguments parse_arguments();

  // Names that were read since the set was last cleared by its user: tells what a macro uses.
  std::set<std::string>& names_read() { return names_read_; }

 private:
  class Nesting;

  ExpressionPtr make(ExpressionKind kind, int line, std::vector<ExpressionPtr> operands);
  ExpressionPtr sealed(ExpressionPtr node);

  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  bool parse_comparison(Comparison& comparison);
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concatenation();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_name();
  ExpressionPtr parse_literal();
  ExpressionPtr parse_parentheses();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr node);
  ExpressionPtr parse_subscript(ExpressionPtr node);
  ExpressionPtr parse_slice(ExpressionPtr node, ExpressionPtr first, int line);
  ExpressionPtr parse_call(ExpressionPtr node);
  ExpressionPtr parse_test(ExpressionPtr node);
  ExpressionPtr parse_target_item();

  TokenStream& tokens_;
  int nesting_ = 0;
  std::set<std::string> names_read_;
};

}  // namespace fathom::text::jinja
