// The tree of a parsed template. Two node types, whose kind says which fields mean what.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace fathom::text::jinja {

struct Expression;
struct Statement;
using ExpressionPtr = std::unique_ptr<Expression>;
using Body = std::vector<Statement>;

enum class ExpressionKind {
  constant,   // constant
  name,       // name
  list,       // operands: the items
  tuple,      // operands: the items
  dict,       // operands: key, value, key, value ...
  attribute,  // operands[0].name
  item,       // operands[0][operands[1]]
  slice,      // operands[0][operands[1] : operands[2] : operands[3]], each of the three may be null
  call,       // operands[0](arguments)
  filter,     // operands[0] | name(arguments); in a filter block operands[0] is null
  test,       // operands[0] is name(arguments)
  conditional,  // operands[1] if operands[0] else operands[2], which may be null
  logical_or,   // operands[0] or operands[1]
  logical_and,  // and of both
  logical_not,  // not operands[0]
  compare,      // operands[0] op operands[1] op ..., operators in `operators`
  binary,       // operands[0] name operands[1], name one of + - * / // % **
  concatenate,  // ~ of all operands
  negative,     // -operands[0]
  positive,     // +operands[0]
};

enum class Comparison { equal, not_equal, less, less_equal, greater, greater_equal, in, not_in };

using Constant =
    std::variant<std::monostate, bool, int64_t, double, std::string>;  // monostate: none

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
  ExpressionPtr star;         // *args, may be null
  ExpressionPtr double_star;  // **kwargs, may be null
};

struct Expression {
  ExpressionKind kind;
  int line = 0;
  int depth = 1;  // of the tree below, itself included
  std::string name;
  Constant constant;
  std::vector<ExpressionPtr> operands;
  std::vector<Comparison> operators;
  CallArguments arguments;
};

enum class StatementKind {
  text,          // text
  output,        // the value of `expression`
  branch,        // if: expression, body, else_body (an elif is a branch in it)
  loop,          // for: target in expression, condition may be null, body, else_body, recursive
  assign,        // set target = expression
  assign_block,  // set target: the text of body, through the filter `expression` if there is one
  macro,         // macro
  call_block,    // call: expression is the call, macro is the caller
  filter_block,  // the text of body through the filter `expression`
  with_block,    // with: targets and values in `bindings`, body
  scope,         // body in a scope of its own (generation)
  break_loop,
  continue_loop,
};

struct Macro {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // of the last parameters
  bool uses_varargs = false, uses_kwargs = false;
  Body body;
};

struct Statement {
  StatementKind kind;
  int line = 0;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr target;  // a name, a tuple of targets, or an attribute of a namespace
  ExpressionPtr condition;
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> bindings;
  std::unique_ptr<Macro> macro;
  Body body, else_body;
  bool recursive = false;
};

}  // namespace fathom::text::jinja
