// Owns the data of one rendering's values and counts what the rendering spends: work, memory and
// depth. Nothing is freed before the end; what may be spent is bounded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "fathom/text/jinja/callable.h"
#include "fathom/text/jinja/value.h"

namespace fathom::text::jinja {

class Heap {
 public:
  Heap(int64_t steps, size_t memory_bytes) : steps_left_(steps), bytes_left_(memory_bytes) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // Counts work: elements or 16-byte pieces of text handled, nodes evaluated. A TemplateError when
  // none is left.
  void spend(int64_t steps) {
    steps_left_ -= steps;
    if (steps_left_ < 0) out_of_steps();
  }
  // Counts memory that is about to be used.
  void reserve(size_t bytes);
  // Takes back what reserve() counted, for the few things that are freed early.
  void release(size_t bytes) { bytes_left_ += bytes; }

  std::string_view copy(std::string_view text);
  // a followed by b; in place when a was the last string made, so that a text grown piece by piece
  // costs no more than its length.
  std::string_view join(std::string_view a, std::string_view b);

  List* list(bool is_tuple = false);
  List* tuple(std::initializer_list<Value> items);
  Dict* dict();
  Callable* callable(const Callable& callable);
  void append(List& list, const Value& value);
  // Replaces the value of a key that is there.
  void set(Dict& dict, const Value& key, const Value& value);

 private:
  [[noreturn]] static void out_of_steps();

  int64_t steps_left_;
  size_t bytes_left_;
  std::vector<std::unique_ptr<char[]>> chunks_;
  char* free_ = nullptr;  // in the last chunk
  size_t free_bytes_ = 0;
  std::deque<List> lists_;
  std::deque<Dict> dicts_;
  std::deque<Callable> callables_;
};

}  // namespace fathom::text::jinja
