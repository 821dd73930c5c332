// Functions that are called by name, and what all of the library shares.
#include "fathom/text/jinja/library.h"

#include <fmt/format.h>

#include <ctime>

#include "fathom/text/jinja/interpreter.h"
#include "fathom/text/jinja/operators.h"

namespace fathom::text::jinja {

const Value* Arguments::find(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [keyword, value] : keywords) {
    if (keyword == name) return &value;
  }
  return nullptr;
}

Value Arguments::get(size_t index, std::string_view name, const Value& otherwise) const {
  const Value* found = find(index, name);
  return found == nullptr ? otherwise : *found;
}

const Value& Arguments::need(size_t index, std::string_view name, std::string_view what) const {
  const Value* found = find(index, name);
  if (found == nullptr) throw TemplateError(fmt::format("{} needs the argument {}", what, name));
  return *found;
}

namespace {

constexpr int64_t kMaxRange = 100'000;  // as Jinja's sandbox

Value raise_exception(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  const Value& message = arguments.need(0, "message", "raise_exception");
  throw TemplateError(std::string(interpreter.to_string(message)), true);
}

Value strftime_now(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  const std::string format(as_string(arguments.need(0, "format", "strftime_now"), "strftime_now"));
  const std::time_t seconds = std::chrono::system_clock::to_time_t(interpreter.now());
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[1024];
  const size_t bytes = std::strftime(text, sizeof(text), format.c_str(), &parts);
  return interpreter.heap().copy({text, bytes});
}

Value range(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  if (arguments.positional.empty()) throw TemplateError("range needs an argument");
  const auto at = [&](size_t i) { return as_integer(arguments.positional[i], "range"); };
  const size_t given = arguments.positional.size();
  const int64_t start = given > 1 ? at(0) : 0;
  const int64_t stop = given > 1 ? at(1) : at(0);
  const int64_t step = given > 2 ? at(2) : 1;
  if (step == 0) throw TemplateError("range's step is zero");
  List* list = interpreter.heap().list();
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (list->items.size() >= kMaxRange) {
      throw TemplateError(fmt::format("range of more than {} numbers", kMaxRange));
    }
    interpreter.heap().append(*list, i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return list;
}

Value make_dict(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  Heap& heap = interpreter.heap();
  Dict* dict = heap.dict();
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (is<Dict*>(source)) {
      for (const auto& [key, value] : std::get<Dict*>(source)->entries) heap.set(*dict, key, value);
    } else {
      for (const Value& pair : elements(source, heap)) {
        const std::vector<Value> parts = elements(pair, heap);
        if (parts.size() != 2) throw TemplateError("dict needs pairs");
        heap.set(*dict, parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.keywords) heap.set(*dict, name, value);
  return dict;
}

Value make_namespace(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value dict = make_dict(interpreter, self, arguments);
  std::get<Dict*>(dict)->is_namespace = true;
  return dict;
}

// The state of a joiner is a list that is empty until its first call.
Value call_joiner(Interpreter& interpreter, const Value& self, const Arguments&) {
  List& state = *std::get<List*>(std::get<List*>(self)->items[1]);
  if (!state.items.empty()) return std::get<List*>(self)->items[0];
  interpreter.heap().append(state, true);
  return std::string_view();
}

Value make_joiner(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  Heap& heap = interpreter.heap();
  const Value separator = arguments.get(0, "sep", std::string_view(", "));
  List* state = heap.tuple({separator, heap.list()});
  return heap.callable({.name = "joiner", .function = call_joiner, .self = state});
}

constexpr NamedFunction kGlobals[] = {
    {"raise_exception", raise_exception},
    {"strftime_now", strftime_now},
    {"range", range},
    {"dict", make_dict},
    {"namespace", make_namespace},
    {"joiner", make_joiner},
};

}  // namespace

Function find_global(std::string_view name) {
  for (const NamedFunction& global : kGlobals) {
    if (global.name == name) return global.function;
  }
  return nullptr;
}

}  // namespace fathom::text::jinja
