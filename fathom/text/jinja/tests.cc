// Jinja's tests: `value is name`.
#include <fmt/format.h>

#include <cmath>

#include "fathom/text/jinja/interpreter.h"
#include "fathom/text/jinja/library.h"
#include "fathom/text/jinja/operators.h"
#include "fathom/text/jinja/strings.h"

namespace fathom::text::jinja {
namespace {

Value is_defined(Interpreter&, const Value& v, const Arguments&) {
  return !is<Undefined>(v);
}
Value is_undefined(Interpreter&, const Value& v, const Arguments&) {
  return is<Undefined>(v);
}
Value is_none(Interpreter&, const Value& v, const Arguments&) {
  return is<None>(v);
}
Value is_boolean(Interpreter&, const Value& v, const Arguments&) {
  return is<bool>(v);
}
Value is_true_constant(Interpreter&, const Value& v, const Arguments&) {
  return is<bool>(v) && std::get<bool>(v);
}
Value is_false_constant(Interpreter&, const Value& v, const Arguments&) {
  return is<bool>(v) && !std::get<bool>(v);
}
Value is_integer(Interpreter&, const Value& v, const Arguments&) {
  return is<int64_t>(v);
}
Value is_float(Interpreter&, const Value& v, const Arguments&) {
  return is<double>(v);
}
Value is_number_test(Interpreter&, const Value& v, const Arguments&) {
  return is_number(v);
}
Value is_string_test(Interpreter&, const Value& v, const Arguments&) {
  return is_string(v);
}
Value is_mapping(Interpreter&, const Value& v, const Arguments&) {
  return is<Dict*>(v) && !std::get<Dict*>(v)->is_namespace;
}
// What has a length and items: so a dict and an undefined value too, as in Jinja.
Value is_sequence(Interpreter& interpreter, const Value& v, const Arguments& arguments) {
  return is_string(v) || is<List*>(v) || is<Undefined>(v) ||
         std::get<bool>(is_mapping(interpreter, v, arguments));
}
Value is_iterable(Interpreter& interpreter, const Value& v, const Arguments& arguments) {
  return is<Loop*>(v) || std::get<bool>(is_sequence(interpreter, v, arguments));
}
Value is_callable(Interpreter&, const Value& v, const Arguments&) {
  return is<Callable*>(v) || is<Loop*>(v);
}
Value is_lower_case(Interpreter& interpreter, const Value& v, const Arguments&) {
  return has_case(interpreter.to_string(v), false);
}
Value is_upper_case(Interpreter& interpreter, const Value& v, const Arguments&) {
  return has_case(interpreter.to_string(v), true);
}
int64_t modulo(const Value& v, int64_t by) {
  const int64_t remainder = as_integer(v, "a test of divisibility") % by;
  return remainder < 0 ? remainder + by : remainder;
}
Value is_even(Interpreter&, const Value& v, const Arguments&) {
  return modulo(v, 2) == 0;
}
Value is_odd(Interpreter&, const Value& v, const Arguments&) {
  return modulo(v, 2) == 1;
}
Value is_divisible(Interpreter&, const Value& v, const Arguments& arguments) {
  const int64_t by = as_integer(arguments.need(0, "num", "divisibleby"), "divisibleby");
  if (by == 0) throw TemplateError("division by zero");
  return by == -1 || as_integer(v, "divisibleby") % by == 0;
}
Value is_filter(Interpreter&, const Value& v, const Arguments&) {
  return find_filter(as_string(v, "filter")) != nullptr;
}
Value is_test(Interpreter&, const Value& v, const Arguments&) {
  return find_test(as_string(v, "test")) != nullptr;
}
Value is_same(Interpreter& interpreter, const Value& v, const Arguments& arguments) {
  const Value& other = arguments.need(0, "other", "sameas");
  if (v.index() != other.index()) return false;
  if (is<List*>(v)) return std::get<List*>(v) == std::get<List*>(other);
  if (is<Dict*>(v)) return std::get<Dict*>(v) == std::get<Dict*>(other);
  return equal(v, other, interpreter.heap());
}

template <Comparison kComparison>
Value compares(Interpreter& interpreter, const Value& v, const Arguments& arguments) {
  return compare(kComparison, v, arguments.need(0, "other", "a test"), interpreter.heap());
}

constexpr NamedFunction kTests[] = {
    {"defined", is_defined},
    {"undefined", is_undefined},
    {"none", is_none},
    {"boolean", is_boolean},
    {"true", is_true_constant},
    {"false", is_false_constant},
    {"integer", is_integer},
    {"float", is_float},
    {"number", is_number_test},
    {"string", is_string_test},
    {"mapping", is_mapping},
    {"sequence", is_sequence},
    {"iterable", is_iterable},
    {"callable", is_callable},
    {"lower", is_lower_case},
    {"upper", is_upper_case},
    {"even", is_even},
    {"odd", is_odd},
    {"divisibleby", is_divisible},
    {"filter", is_filter},
    {"test", is_test},
    {"sameas", is_same},
    {"eq", compares<Comparison::equal>},
    {"equalto", compares<Comparison::equal>},
    {"ne", compares<Comparison::not_equal>},
    {"lt", compares<Comparison::less>},
    {"lessthan", compares<Comparison::less>},
    {"le", compares<Comparison::less_equal>},
    {"gt", compares<Comparison::greater>},
    {"greaterthan", compares<Comparison::greater>},
    {"ge", compares<Comparison::greater_equal>},
    {"in", compares<Comparison::in>},
};

}  // namespace

Function find_test(std::string_view name) {
  for (const NamedFunction& test : kTests) {
    if (test.name == name) return test.function;
  }
  return nullptr;
}

}  // namespace fathom::text::jinja
