// Runs a parsed template.
//
// Threads: one owner; lives for one rendering.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fathom/text/jinja/ast.h"
#include "fathom/text/jinja/callable.h"
#include "fathom/text/jinja/heap.h"
#include "fathom/text/jinja/value.h"

namespace fathom::text::jinja {

// Variables of one block; names not found are looked for in `parent`.
struct Scope {
  Scope* parent = nullptr;
  bool captured = false;  // a macro sees it: it outlives its block
  std::vector<std::pair<std::string_view, Value>> variables;
};

// The variable `loop`.
struct Loop {
  const Statement* statement = nullptr;
  Scope* scope = nullptr;  // around the loop, for recursion
  std::vector<Value> items;
  size_t index = 0;  // 0-based
  int level = 0;     // of recursion, 0-based
  std::vector<Value> changed;
  bool has_changed = false;  // loop.changed() was called
};

class Interpreter {
 public:
  // `heap` and the template's tree outlive the interpreter.
  Interpreter(Heap& heap, size_t output_bytes, std::chrono::system_clock::time_point now)
      : heap_(heap), output_bytes_(output_bytes), now_(now) {}

  void set_global(std::string_view name, const Value& value);

  // A TemplateError when the template fails or spends more than it may.
  std::string render(const Body& body);

  // For the library.
  Heap& heap() { return heap_; }
  std::chrono::system_clock::time_point now() const { return now_; }
  Value call(const Callable& callable, const Arguments& arguments);
  // value.name, as Jinja looks it up: methods, then items.
  Value attribute(const Value& value, std::string_view name);
  std::string_view to_string(const Value& value);
  // Runs a recursive loop's body over other items and returns its text.
  Value call_loop(Loop& loop, const Value& items);

 private:
  enum class Flow { next, break_loop, continue_loop };
  class Depth;
  class ScopeGuard;
  static constexpr size_t kVariableBytes = 3 * sizeof(Value);  // name, value, room to grow

  Flow run(const Body& body, std::string& out);
  Flow run(const Statement& statement, std::string& out);
  Flow run_branch(const Statement& statement, std::string& out);
  void run_loop(const Statement& statement, const Value& items, int level, std::string& out);
  void run_iterations(Loop& loop, std::string& out);
  std::vector<Value> filtered_items(const Statement& statement, const Value& items);
  void run_assign_block(const Statement& statement);
  void run_macro(const Statement& statement);
  void run_call_block(const Statement& statement, std::string& out);
  void run_with(const Statement& statement, std::string& out);
  std::string captured_text(const Body& body);
  void write(std::string_view text, std::string& out);

  void assign(const Expression& target, const Value& value);
  void set_variable(std::string_view name, const Value& value);
  Value lookup(std::string_view name);

  Value evaluate(const Expression& node);
  Value evaluate_node(const Expression& node);
  Value evaluate_conditional(const Expression& node);
  Value evaluate_items(const Expression& node);
  Value evaluate_compare(const Expression& node);
  Value evaluate_concatenation(const Expression& node);
  Value evaluate_slice(const Expression& node);
  Value evaluate_call(const Expression& node);
  Value evaluate_filter(const Expression& node, const Value& value);
  Arguments evaluate_arguments(const CallArguments& arguments);
  Value call_value(const Value& callee, const Arguments& arguments);
  Value call_macro(const Callable& callable, const Arguments& arguments);
  Value loop_attribute(Loop& loop, std::string_view name);

  Heap& heap_;
  size_t output_bytes_;
  std::chrono::system_clock::time_point now_;
  Scope globals_;
  Scope* scope_ = &globals_;
  std::deque<Scope> scopes_;  // the open ones and the captured
  std::deque<Loop> loops_;
  int depth_ = 0;
};

}  // namespace fathom::text::jinja
