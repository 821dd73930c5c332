// The interpreter's expressions.
#include <fmt/format.h>

#include "fathom/text/jinja/format.h"
#include "fathom/text/jinja/interpreter.h"
#include "fathom/text/jinja/library.h"
#include "fathom/text/jinja/operators.h"
#include "fathom/text/jinja/scope_guard.h"

namespace fathom::text::jinja {
namespace {

Value constant_value(const Constant& constant) {
  struct Convert {
    Value operator()(std::monostate) const { return None{}; }
    Value operator()(bool v) const { return v; }
    Value operator()(int64_t v) const { return v; }
    Value operator()(double v) const { return v; }
    Value operator()(const std::string& v) const { return std::string_view(v); }
  };
  return std::visit(Convert{}, constant);
}

// A name that does not exist is an error when its value is used, not when it is read.
[[noreturn]] void undefined_error(const Value& value) {
  throw TemplateError(fmt::format("'{}' is undefined", std::get<Undefined>(value).name));
}

// Takes the entry of that name out.
Value take(Dict& dict, std::string_view name) {
  for (auto entry = dict.entries.begin(); entry != dict.entries.end(); ++entry) {
    if (std::get<std::string_view>(entry->first) != name) continue;
    const Value value = entry->second;
    dict.entries.erase(entry);
    return value;
  }
  return Undefined{name};
}

// The parts of a macro call that no parameter takes.
struct Surplus {
  List* positional;
  Dict* named;
};

Surplus surplus_of(const Macro& macro, const Arguments& arguments, Heap& heap) {
  Surplus surplus{heap.list(true), heap.dict()};
  for (size_t i = macro.parameters.size(); i < arguments.positional.size(); ++i) {
    heap.append(*surplus.positional, arguments.positional[i]);
  }
  for (const auto& [name, value] : arguments.keywords) heap.set(*surplus.named, name, value);
  for (const std::string& name : macro.parameters) take(*surplus.named, name);
  return surplus;
}

void check_surplus(const Macro& macro, const Surplus& surplus) {
  if (!surplus.positional->items.empty() && !macro.uses_varargs) {
    throw TemplateError(fmt::format(
        "macro '{}' takes not more than {} arguments", macro.name, macro.parameters.size()
    ));
  }
  if (!surplus.named->entries.empty() && !macro.uses_kwargs) {
    throw TemplateError(fmt::format(
        "macro '{}' takes no keyword argument '{}'",
        macro.name,
        std::get<std::string_view>(surplus.named->entries[0].first)
    ));
  }
}

}  // namespace

// Errors from below get this line unless they have theirs.
Value Interpreter::evaluate(const Expression& node) {
  const Depth depth(*this);
  heap_.spend(1);
  try {
    return evaluate_node(node);
  } catch (const TemplateError& e) {
    if (e.complete()) throw;
    throw TemplateError(fmt::format("line {}: {}", node.line, e.what()), true);
  }
}

Value Interpreter::evaluate_node(const Expression& node) {
  const auto operand = [&](size_t i) { return evaluate(*node.operands[i]); };
  switch (node.kind) {
    case ExpressionKind::constant:
      return constant_value(node.constant);
    case ExpressionKind::name: {
      const Value value = lookup(node.name);
      if (!is<Undefined>(value)) return value;
      const Function function = find_global(node.name);
      if (function == nullptr) return value;
      return heap_.callable({.name = node.name, .function = function});
    }
    case ExpressionKind::list:
    case ExpressionKind::tuple:
    case ExpressionKind::dict:
      return evaluate_items(node);
    case ExpressionKind::attribute:
      return attribute(operand(0), node.name);
    case ExpressionKind::item: {
      const Value object = operand(0);
      const Value index = operand(1);
      if (is<Undefined>(object)) undefined_error(object);
      const Value found = item(object, index, heap_);
      // As Jinja: a string that is no key may still be an attribute.
      const bool named = is<Undefined>(found) && is_string(index);
      return named ? attribute(object, std::get<std::string_view>(index)) : found;
    }
    case ExpressionKind::slice:
      return evaluate_slice(node);
    case ExpressionKind::call:
      return evaluate_call(node);
    case ExpressionKind::filter:
      return evaluate_filter(node, Undefined{});
    case ExpressionKind::test: {
      const Value value = operand(0);
      return find_test(node.name)(*this, value, evaluate_arguments(node.arguments));
    }
    case ExpressionKind::conditional:
      return evaluate_conditional(node);
    case ExpressionKind::logical_or: {
      const Value left = operand(0);
      return is_true(left) ? left : operand(1);
    }
    case ExpressionKind::logical_and: {
      const Value left = operand(0);
      return is_true(left) ? operand(1) : left;
    }
    case ExpressionKind::logical_not:
      return !is_true(operand(0));
    case ExpressionKind::compare:
      return evaluate_compare(node);
    case ExpressionKind::binary: {
      const Value left = operand(0);
      return binary(node.name, left, operand(1), heap_);
    }
    case ExpressionKind::concatenate:
      return evaluate_concatenation(node);
    case ExpressionKind::negative:
      return negative(operand(0));
    case ExpressionKind::positive: {
      const Value value = operand(0);
      as_number(value, "+");
      return value;
    }
  }
  return Undefined{};
}

Value Interpreter::evaluate_conditional(const Expression& node) {
  if (is_true(evaluate(*node.operands[0]))) return evaluate(*node.operands[1]);
  return node.operands[2] == nullptr ? Value(Undefined{"else"}) : evaluate(*node.operands[2]);
}

Value Interpreter::evaluate_items(const Expression& node) {
  if (node.kind != ExpressionKind::dict) {
    List* list = heap_.list(node.kind == ExpressionKind::tuple);
    for (const auto& operand : node.operands) heap_.append(*list, evaluate(*operand));
    return list;
  }
  Dict* dict = heap_.dict();
  for (size_t i = 0; i < node.operands.size(); i += 2) {
    const Value key = evaluate(*node.operands[i]);
    if (is<List*>(key) || is<Dict*>(key)) throw TemplateError("a dict's key must be a scalar");
    heap_.set(*dict, key, evaluate(*node.operands[i + 1]));
  }
  return dict;
}

Value Interpreter::evaluate_compare(const Expression& node) {
  Value left = evaluate(*node.operands[0]);
  for (size_t i = 0; i < node.operators.size(); ++i) {
    const Value right = evaluate(*node.operands[i + 1]);
    if (!compare(node.operators[i], left, right, heap_)) return false;
    left = right;
  }
  return true;
}

Value Interpreter::evaluate_concatenation(const Expression& node) {
  std::string_view text;
  for (const auto& operand : node.operands) {
    text = heap_.join(text, to_string(evaluate(*operand)));
  }
  return text;
}

Value Interpreter::evaluate_slice(const Expression& node) {
  const auto bound = [&](size_t i) {
    return node.operands[i] == nullptr ? Value(None{}) : evaluate(*node.operands[i]);
  };
  const Value object = evaluate(*node.operands[0]);
  if (is<Undefined>(object)) undefined_error(object);
  const Value start = bound(1);
  const Value stop = bound(2);
  return slice(object, start, stop, bound(3), heap_);
}

Value Interpreter::evaluate_call(const Expression& node) {
  const Value callee = evaluate(*node.operands[0]);
  return call_value(callee, evaluate_arguments(node.arguments));
}

Value Interpreter::evaluate_filter(const Expression& node, const Value& value) {
  // The innermost filter of a block has no operand: it takes the block's text.
  const Depth depth(*this);
  const Expression* operand = node.operands[0].get();
  Value input = value;
  if (operand != nullptr) {
    const bool chained = operand->kind == ExpressionKind::filter && !is<Undefined>(value);
    input = chained ? evaluate_filter(*operand, value) : evaluate(*operand);
  }
  return find_filter(node.name)(*this, input, evaluate_arguments(node.arguments));
}

Arguments Interpreter::evaluate_arguments(const CallArguments& arguments) {
  Arguments result;
  for (const auto& argument : arguments.positional) {
    result.positional.push_back(evaluate(*argument));
  }
  for (const auto& [name, argument] : arguments.keywords) {
    result.keywords.emplace_back(name, evaluate(*argument));
  }
  if (arguments.star != nullptr) {
    for (const Value& value : elements(evaluate(*arguments.star), heap_)) {
      result.positional.push_back(value);
    }
  }
  if (arguments.double_star != nullptr) {
    const Value values = evaluate(*arguments.double_star);
    if (!is<Dict*>(values)) throw TemplateError("** needs a dict");
    heap_.spend(static_cast<int64_t>(std::get<Dict*>(values)->entries.size()));
    for (const auto& [name, value] : std::get<Dict*>(values)->entries) {
      result.keywords.emplace_back(as_string(name, "**"), value);
    }
  }
  return result;
}

Value Interpreter::call_value(const Value& callee, const Arguments& arguments) {
  if (is<Undefined>(callee)) undefined_error(callee);
  if (is<Loop*>(callee)) {
    return call_loop(*std::get<Loop*>(callee), arguments.need(0, "iterable", "loop"));
  }
  if (is<Callable*>(callee)) return call(*std::get<Callable*>(callee), arguments);
  throw TemplateError(fmt::format("'{}' object is not callable", type_name(callee)));
}

Value Interpreter::call(const Callable& callable, const Arguments& arguments) {
  const Depth depth(*this);
  if (callable.macro != nullptr) return call_macro(callable, arguments);
  return callable.function(*this, callable.self, arguments);
}

Value Interpreter::call_macro(const Callable& callable, const Arguments& arguments) {
  const Macro& macro = *callable.macro;
  const ScopeGuard scope(*this, callable.scope);
  const Surplus surplus = surplus_of(macro, arguments, heap_);
  const Value caller = take(*surplus.named, "caller");
  check_surplus(macro, surplus);
  if (!is<Undefined>(caller)) set_variable("caller", caller);
  if (macro.uses_varargs) set_variable("varargs", surplus.positional);
  if (macro.uses_kwargs) set_variable("kwargs", surplus.named);
  const size_t required = macro.parameters.size() - macro.defaults.size();
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const std::string& name = macro.parameters[i];
    if (const Value* given = arguments.find(i, name)) {
      set_variable(name, *given);
    } else {
      set_variable(name, i < required ? Undefined{name} : evaluate(*macro.defaults[i - required]));
    }
  }
  std::string text;
  run(macro.body, text);
  return heap_.copy(text);
}

Value Interpreter::attribute(const Value& value, std::string_view name) {
  if (is<Undefined>(value)) undefined_error(value);
  if (Loop* const* loop = std::get_if<Loop*>(&value)) return loop_attribute(**loop, name);
  if (Callable* const* callable = std::get_if<Callable*>(&value)) {
    if (name == "name" && (*callable)->macro != nullptr) return (*callable)->name;
    return Undefined{name};
  }
  if (const Function method = find_method(value, name)) {
    return heap_.callable({.name = name, .function = method, .self = value});
  }
  return item(value, name, heap_);
}

Value Interpreter::loop_attribute(Loop& loop, std::string_view name) {
  const auto size = static_cast<int64_t>(loop.items.size());
  const auto index = static_cast<int64_t>(loop.index);
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "revindex") return size - index;
  if (name == "revindex0") return size - index - 1;
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 == size;
  if (name == "length") return size;
  if (name == "depth") return int64_t{loop.level} + 1;
  if (name == "depth0") return int64_t{loop.level};
  if (name == "previtem") {
    return index == 0 ? Value(Undefined{"previtem"}) : loop.items[loop.index - 1];
  }
  if (name == "nextitem") {
    return index + 1 == size ? Value(Undefined{"nextitem"}) : loop.items[loop.index + 1];
  }
  if (const Function method = find_method(&loop, name)) {
    return heap_.callable({.name = name, .function = method, .self = &loop});
  }
  return Undefined{name};
}

std::string_view Interpreter::to_string(const Value& value) {
  if (is_string(value)) return std::get<std::string_view>(value);
  if (is<Undefined>(value)) return {};
  std::string text;
  append_str(value, heap_, text);
  return heap_.copy(text);
}

}  // namespace fathom::text::jinja
