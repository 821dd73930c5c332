#include "fathom/text/jinja/heap.h"

#include <algorithm>
#include <cstring>

namespace fathom::text::jinja {
namespace {

constexpr size_t kChunkBytes = 16 << 10;

}  // namespace

void Heap::out_of_steps() {
  throw TemplateError("the template does more work than a rendering may");
}

void Heap::reserve(size_t bytes) {
  if (bytes > bytes_left_) throw TemplateError("the template uses more memory than it may");
  bytes_left_ -= bytes;
}

std::string_view Heap::copy(std::string_view text) {
  return join({}, text);
}

std::string_view Heap::join(std::string_view a, std::string_view b) {
  if (b.empty()) return a;
  spend(static_cast<int64_t>(b.size() / 16));
  const bool in_place = !a.empty() && a.data() + a.size() == free_ && b.size() <= free_bytes_;
  if (!in_place) {
    const size_t bytes = a.size() + b.size();
    spend(static_cast<int64_t>(a.size() / 16));
    if (bytes > free_bytes_) {
      // Room to grow as much again: a text grown piece by piece is copied only now and then.
      const size_t chunk = std::max(kChunkBytes, bytes * 2);
      reserve(chunk);
      chunks_.push_back(std::make_unique_for_overwrite<char[]>(chunk));
      free_ = chunks_.back().get();
      free_bytes_ = chunk;
    }
    if (!a.empty()) std::memcpy(free_, a.data(), a.size());
    a = {free_, a.size()};
    free_ += a.size();
    free_bytes_ -= a.size();
  }
  std::memcpy(free_, b.data(), b.size());
  free_ += b.size();
  free_bytes_ -= b.size();
  return {a.data(), a.size() + b.size()};
}

List* Heap::list(bool is_tuple) {
  reserve(sizeof(List));
  lists_.emplace_back().is_tuple = is_tuple;
  return &lists_.back();
}

List* Heap::tuple(std::initializer_list<Value> items) {
  List* tuple = list(true);
  for (const Value& item : items) append(*tuple, item);
  return tuple;
}

Dict* Heap::dict() {
  reserve(sizeof(Dict));
  return &dicts_.emplace_back();
}

Callable* Heap::callable(const Callable& callable) {
  reserve(sizeof(Callable));
  return &callables_.emplace_back(callable);
}

void Heap::append(List& list, const Value& value) {
  spend(1);
  reserve(2 * sizeof(Value));  // vectors grow by doubling
  list.items.push_back(value);
}

void Heap::set(Dict& dict, const Value& key, const Value& value) {
  if (Value* found = find(dict, key, *this)) {
    *found = value;
    return;
  }
  spend(1);
  reserve(4 * sizeof(Value));
  dict.entries.emplace_back(key, value);
}

}  // namespace fathom::text::jinja
