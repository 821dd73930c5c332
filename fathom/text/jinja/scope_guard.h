// Scopes and depth of the interpreter, opened and closed with C++ blocks.
#pragma once

#include "fathom/text/jinja/interpreter.h"

namespace fathom::text::jinja {

// Bounds the recursion of statements and expressions, whichever way they nest.
class Interpreter::Depth {
 public:
  explicit Depth(Interpreter& interpreter) : interpreter_(interpreter) {
    if (++interpreter_.depth_ > kMaxDepth) {
      --interpreter_.depth_;
      throw TemplateError("the template recurses too deep");
    }
  }
  ~Depth() { --interpreter_.depth_; }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  static constexpr int kMaxDepth = 1000;
  Interpreter& interpreter_;
};

// Opens a scope under `parent` and goes back to the one before it.
class Interpreter::ScopeGuard {
 public:
  ScopeGuard(Interpreter& interpreter, Scope* parent)
      : interpreter_(interpreter), before_(interpreter.scope_) {
    interpreter_.heap_.reserve(sizeof(Scope));
    scope_ = &interpreter_.scopes_.emplace_back();
    scope_->parent = parent;
    interpreter_.scope_ = scope_;
  }
  ~ScopeGuard() {
    interpreter_.scope_ = before_;
    if (scope_->captured || scope_ != &interpreter_.scopes_.back()) return;
    const size_t variables = scope_->variables.size();
    interpreter_.heap_.release(sizeof(Scope) + variables * kVariableBytes);
    interpreter_.scopes_.pop_back();
  }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  Interpreter& interpreter_;
  Scope* before_;
  Scope* scope_;
};

}  // namespace fathom::text::jinja
