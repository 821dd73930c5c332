#include "fathom/text/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "fathom/text/jinja/expression_parser.h"
#include "fathom/text/jinja/value.h"

namespace fathom::text::jinja {
namespace {

constexpr int kMaxNesting = 100;  // of tags in tags

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(source), expressions_(tokens_) {}

  Body parse_template() {
    Body body = parse_body({});
    if (!tokens_.at(TokenKind::end)) tokens_.fail("a tag that closes nothing");
    return body;
  }

 private:
  using Names = std::initializer_list<std::string_view>;

  // Statements up to a tag whose name is one of `ends`; the stream then stands at that name.
  Body parse_body(Names ends) {
    if (++nesting_ > kMaxNesting) tokens_.fail("tags nest too deep");
    Body body;
    while (!tokens_.at(TokenKind::end)) {
      const int line = tokens_.line();
      if (tokens_.at(TokenKind::text)) {
        body.push_back(make(StatementKind::text, line));
        body.back().text = tokens_.next().text;
      } else if (tokens_.at(TokenKind::variable_begin)) {
        tokens_.next();
        body.push_back(make(StatementKind::output, line));
        body.back().expression = expressions_.parse_tuple();
        tokens_.expect(TokenKind::variable_end, "}}");
      } else {
        tokens_.expect(TokenKind::block_begin, "{%");
        if (!tokens_.at(TokenKind::name)) tokens_.fail("expected a tag's name");
        const auto* end = std::find(ends.begin(), ends.end(), tokens_.current().text);
        if (end != ends.end()) break;
        body.push_back(parse_tag());
      }
    }
    if (ends.size() > 0 && tokens_.at(TokenKind::end)) {
      tokens_.fail(fmt::format("expected {{% {} %}}", *(ends.end() - 1)));
    }
    --nesting_;
    return body;
  }

  // A body that ends with {% name %}.
  Body parse_body_to(std::string_view name) {
    end_tag();
    Body body = parse_body({name});
    tokens_.next();
    end_tag();
    return body;
  }

  void end_tag() { tokens_.expect(TokenKind::block_end, "%}"); }

  static Statement make(StatementKind kind, int line) {
    Statement statement;
    statement.kind = kind;
    statement.line = line;
    return statement;
  }

  Statement parse_tag() {
    const LexerToken tag = tokens_.next();
    if (tag.text == "if") return parse_branch(tag.line);
    if (tag.text == "for") return parse_loop(tag.line);
    if (tag.text == "set") return parse_assignment(tag.line);
    if (tag.text == "macro") return parse_macro(tag.line);
    if (tag.text == "call") return parse_call_block(tag.line);
    if (tag.text == "filter") return parse_filter_block(tag.line);
    if (tag.text == "with") return parse_with(tag.line);
    if (tag.text == "generation") {
      Statement statement = make(StatementKind::scope, tag.line);
      statement.body = parse_body_to("endgeneration");
      return statement;
    }
    if (tag.text == "break" || tag.text == "continue") {
      if (loops_ == 0) tokens_.fail(fmt::format("\"{}\" outside a loop", tag.text));
      end_tag();
      return make(
          tag.text == "break" ? StatementKind::break_loop : StatementKind::continue_loop, tag.line
      );
    }
    throw TemplateError(fmt::format(
        "line {}: the tag \"{}\" is not supported here (if, for, set, macro, call, filter, with, "
        "generation, raw, break, continue)",
        tag.line,
        tag.text
    ));
  }

  // if, elif: the stream stands behind the name.
  Statement parse_branch(int line) {
    Statement statement = make(StatementKind::branch, line);
    statement.expression = expressions_.parse_tuple();
    end_tag();
    statement.body = parse_body({"elif", "else", "endif"});
    const LexerToken tag = tokens_.next();
    if (tag.text == "elif") {
      if (++nesting_ > kMaxNesting) tokens_.fail("too many elif tags");
      statement.else_body.push_back(parse_branch(tag.line));
      --nesting_;
      return statement;
    }
    if (tag.text == "else") {
      end_tag();
      statement.else_body = parse_body({"endif"});
      tokens_.next();
    }
    end_tag();
    return statement;
  }

  Statement parse_loop(int line) {
    Statement statement = make(StatementKind::loop, line);
    statement.target = expressions_.parse_target();
    tokens_.expect_name("in");
    statement.expression = expressions_.parse_loop_source();
    if (tokens_.skip_name("if")) statement.condition = expressions_.parse();
    statement.recursive = tokens_.skip_name("recursive");
    end_tag();
    ++loops_;
    statement.body = parse_body({"else", "endfor"});
    --loops_;
    if (tokens_.next().text == "else") {
      end_tag();
      statement.else_body = parse_body({"endfor"});
      tokens_.next();
    }
    end_tag();
    return statement;
  }

  Statement parse_assignment(int line) {
    Statement statement = make(StatementKind::assign, line);
    statement.target = expressions_.parse_target();
    if (tokens_.skip_symbol("=")) {
      statement.expression = expressions_.parse_tuple();
      end_tag();
      return statement;
    }
    statement.kind = StatementKind::assign_block;
    if (tokens_.skip_symbol("|")) statement.expression = expressions_.parse_filters(nullptr, true);
    statement.body = parse_body_to("endset");
    return statement;
  }

  // The parameters in brackets.
  void parse_parameters(Macro& macro) {
    tokens_.expect_symbol("(");
    while (!tokens_.at_symbol(")")) {
      if (!macro.parameters.empty()) tokens_.expect_symbol(",");
      if (tokens_.at_symbol(")")) break;
      macro.parameters.push_back(tokens_.expect(TokenKind::name, "a parameter's name"));
      if (tokens_.skip_symbol("=")) {
        macro.defaults.push_back(expressions_.parse());
      } else if (!macro.defaults.empty()) {
        tokens_.fail("a parameter without a default after one with");
      }
    }
    tokens_.expect_symbol(")");
  }

  // A body that is called: loops around it do not reach into it. Tells by the names read which of
  // the implicit arguments it takes.
  void parse_macro_body(Macro& macro, std::string_view end) {
    std::set<std::string> outer;
    std::swap(outer, expressions_.names_read());
    const int loops = std::exchange(loops_, 0);
    macro.body = parse_body_to(end);
    loops_ = loops;
    macro.uses_varargs = expressions_.names_read().contains("varargs");
    macro.uses_kwargs = expressions_.names_read().contains("kwargs");
    expressions_.names_read().merge(outer);
  }

  Statement parse_macro(int line) {
    Statement statement = make(StatementKind::macro, line);
    statement.macro = std::make_unique<Macro>();
    statement.macro->name = tokens_.expect(TokenKind::name, "a macro's name");
    parse_parameters(*statement.macro);
    parse_macro_body(*statement.macro, "endmacro");
    return statement;
  }

  Statement parse_call_block(int line) {
    Statement statement = make(StatementKind::call_block, line);
    statement.macro = std::make_unique<Macro>();
    statement.macro->name = "caller";
    if (tokens_.at_symbol("(")) parse_parameters(*statement.macro);
    statement.expression = expressions_.parse();
    if (statement.expression->kind != ExpressionKind::call) tokens_.fail("expected a call");
    parse_macro_body(*statement.macro, "endcall");
    return statement;
  }

  Statement parse_filter_block(int line) {
    Statement statement = make(StatementKind::filter_block, line);
    statement.expression = expressions_.parse_filters(nullptr, true);
    statement.body = parse_body_to("endfilter");
    return statement;
  }

  Statement parse_with(int line) {
    Statement statement = make(StatementKind::with_block, line);
    while (!tokens_.at(TokenKind::block_end)) {
      if (!statement.bindings.empty()) tokens_.expect_symbol(",");
      ExpressionPtr target = expressions_.parse_target();
      tokens_.expect_symbol("=");
      statement.bindings.emplace_back(std::move(target), expressions_.parse());
    }
    statement.body = parse_body_to("endwith");
    return statement;
  }

  TokenStream tokens_;
  ExpressionParser expressions_;
  int nesting_ = 0;
  int loops_ = 0;
};

}  // namespace

Body parse(std::string_view source) {
  return Parser(source).parse_template();
}

}  // namespace fathom::text::jinja
