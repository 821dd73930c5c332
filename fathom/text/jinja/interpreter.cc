// Statements; expressions are in evaluate.cc.
#include "fathom/text/jinja/interpreter.h"

#include <fmt/format.h>

#include "fathom/text/jinja/format.h"
#include "fathom/text/jinja/operators.h"
#include "fathom/text/jinja/scope_guard.h"

namespace fathom::text::jinja {

void Interpreter::set_global(std::string_view name, const Value& value) {
  for (auto& [known, old] : globals_.variables) {
    if (known == name) {
      old = value;
      return;
    }
  }
  globals_.variables.emplace_back(name, value);
}

std::string Interpreter::render(const Body& body) {
  std::string out;
  const ScopeGuard scope(*this, &globals_);
  run(body, out);
  return out;
}

void Interpreter::write(std::string_view text, std::string& out) {
  heap_.spend(static_cast<int64_t>(text.size() / 16));
  if (out.size() + text.size() > output_bytes_) {
    throw TemplateError(fmt::format("the output grows beyond {} bytes", output_bytes_));
  }
  out += text;
}

Interpreter::Flow Interpreter::run(const Body& body, std::string& out) {
  const Depth depth(*this);
  for (const Statement& statement : body) {
    const Flow flow = run(statement, out);
    if (flow != Flow::next) return flow;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::run(const Statement& statement, std::string& out) {
  heap_.spend(1);
  switch (statement.kind) {
    case StatementKind::text:
      write(statement.text, out);
      break;
    case StatementKind::output:
      write(to_string(evaluate(*statement.expression)), out);
      break;
    case StatementKind::branch:
      return run_branch(statement, out);
    case StatementKind::loop:
      run_loop(statement, evaluate(*statement.expression), 0, out);
      break;
    case StatementKind::assign:
      assign(*statement.target, evaluate(*statement.expression));
      break;
    case StatementKind::assign_block:
      run_assign_block(statement);
      break;
    case StatementKind::macro:
      run_macro(statement);
      break;
    case StatementKind::call_block:
      run_call_block(statement, out);
      break;
    case StatementKind::filter_block: {
      const Value text = heap_.copy(captured_text(statement.body));
      write(to_string(evaluate_filter(*statement.expression, text)), out);
      break;
    }
    case StatementKind::with_block:
      run_with(statement, out);
      break;
    case StatementKind::scope: {
      const ScopeGuard scope(*this, scope_);
      return run(statement.body, out);
    }
    case StatementKind::break_loop:
      return Flow::break_loop;
    case StatementKind::continue_loop:
      return Flow::continue_loop;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::run_branch(const Statement& statement, std::string& out) {
  return run(is_true(evaluate(*statement.expression)) ? statement.body : statement.else_body, out);
}

std::vector<Value> Interpreter::filtered_items(const Statement& statement, const Value& items) {
  std::vector<Value> all = elements(items, heap_);
  if (statement.condition == nullptr) return all;
  std::vector<Value> kept;
  const ScopeGuard scope(*this, scope_);
  for (const Value& item : all) {
    assign(*statement.target, item);
    if (is_true(evaluate(*statement.condition))) kept.push_back(item);
  }
  return kept;
}

void Interpreter::run_loop(
    const Statement& statement, const Value& items, int level, std::string& out
) {
  heap_.reserve(sizeof(Loop));
  Loop& loop = loops_.emplace_back();
  loop.statement = &statement;
  loop.scope = scope_;
  loop.level = level;
  loop.items = filtered_items(statement, items);
  heap_.reserve(loop.items.size() * sizeof(Value));
  if (!loop.items.empty()) return run_iterations(loop, out);
  const ScopeGuard scope(*this, scope_);
  run(statement.else_body, out);
}

void Interpreter::run_iterations(Loop& loop, std::string& out) {
  const Statement& statement = *loop.statement;
  for (loop.index = 0; loop.index < loop.items.size(); ++loop.index) {
    const ScopeGuard scope(*this, loop.scope);
    set_variable("loop", &loop);
    assign(*statement.target, loop.items[loop.index]);
    if (run(statement.body, out) == Flow::break_loop) break;
  }
}

Value Interpreter::call_loop(Loop& loop, const Value& items) {
  if (!loop.statement->recursive) {
    throw TemplateError("loop() is called in a loop that is not marked recursive");
  }
  std::string text;
  const ScopeGuard scope(*this, loop.scope);
  run_loop(*loop.statement, items, loop.level + 1, text);
  return heap_.copy(text);
}

std::string Interpreter::captured_text(const Body& body) {
  std::string text;
  const ScopeGuard scope(*this, scope_);
  run(body, text);
  return text;
}

void Interpreter::run_assign_block(const Statement& statement) {
  Value value = heap_.copy(captured_text(statement.body));
  if (statement.expression != nullptr) value = evaluate_filter(*statement.expression, value);
  assign(*statement.target, value);
}

void Interpreter::run_macro(const Statement& statement) {
  for (Scope* scope = scope_; scope != nullptr; scope = scope->parent) scope->captured = true;
  const Callable macro{
      .name = statement.macro->name, .macro = statement.macro.get(), .scope = scope_};
  set_variable(statement.macro->name, heap_.callable(macro));
}

void Interpreter::run_call_block(const Statement& statement, std::string& out) {
  for (Scope* scope = scope_; scope != nullptr; scope = scope->parent) scope->captured = true;
  const Expression& call = *statement.expression;
  const Callable body{.name = "caller", .macro = statement.macro.get(), .scope = scope_};
  const Value callee = evaluate(*call.operands[0]);
  Arguments arguments = evaluate_arguments(call.arguments);
  arguments.keywords.emplace_back("caller", heap_.callable(body));
  write(to_string(call_value(callee, arguments)), out);
}

void Interpreter::run_with(const Statement& statement, std::string& out) {
  std::vector<Value> values;  // all before the first is assigned
  for (const auto& [target, value] : statement.bindings) values.push_back(evaluate(*value));
  const ScopeGuard scope(*this, scope_);
  for (size_t i = 0; i < values.size(); ++i) assign(*statement.bindings[i].first, values[i]);
  run(statement.body, out);
}

void Interpreter::assign(const Expression& target, const Value& value) {
  if (target.kind == ExpressionKind::name) return set_variable(target.name, value);
  if (target.kind == ExpressionKind::attribute) {
    const Value object = evaluate(*target.operands[0]);
    Dict* const* dict = std::get_if<Dict*>(&object);
    if (dict == nullptr || !(*dict)->is_namespace) {
      throw TemplateError(
          fmt::format(
              "line {}: attributes can be set on namespace objects only, not on '{}'",
              target.line,
              type_name(object)
          ),
          true
      );
    }
    return heap_.set(**dict, std::string_view(target.name), value);
  }
  const std::vector<Value> values = elements(value, heap_);
  if (values.size() != target.operands.size()) {
    throw TemplateError(
        fmt::format(
            "line {}: {} values to unpack into {} names",
            target.line,
            values.size(),
            target.operands.size()
        ),
        true
    );
  }
  for (size_t i = 0; i < values.size(); ++i) assign(*target.operands[i], values[i]);
}

void Interpreter::set_variable(std::string_view name, const Value& value) {
  for (auto& [known, old] : scope_->variables) {
    if (known == name) {
      old = value;
      return;
    }
  }
  heap_.reserve(kVariableBytes);
  scope_->variables.emplace_back(name, value);
}

Value Interpreter::lookup(std::string_view name) {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    heap_.spend(1);
    for (const auto& [known, value] : scope->variables) {
      if (known == name) return value;
    }
  }
  return Undefined{name};
}

}  // namespace fathom::text::jinja
