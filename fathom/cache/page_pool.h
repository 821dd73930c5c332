// Which pages of KV memory are free. Integers only: what a page's bytes are is the runtime's
// business, who holds a granted page is the scheduler's and the tree's.
//
// A page is free, granted (held by a sequence or the tree), or in limbo: dropped, but a step in
// flight may still read or write it (contracts.md P1, P3, P4). Page 0 is the dummy: never granted.
// Nothing allocates after construction. One thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fathom/plan/batch.h"

namespace fathom::cache {

using plan::PageId;
using plan::StepId;

class PagePool {
 public:
  // Pages 0 .. total - 1, all free but the dummy.
  explicit PagePool(int total);

  // P3: appends n pages to `to`, or none and returns false when fewer are free.
  bool grant(int n, std::vector<PageId>& to);

  // P4: the only way a page leaves its owner. Free once `last_use` is committed; 0: no step used
  // it.
  void retire(std::span<const PageId> pages, StepId last_use);

  // Steps up to and including `step` have been committed.
  void committed(StepId step);

  // F3: all pages free, whoever held them; steps up to `step` will never come.
  void reset(StepId step);

  int free() const { return static_cast<int>(free_.size()); }
  int in_limbo() const { return static_cast<int>(limbo_.size()); }
  int total() const { return static_cast<int>(state_.size()); }
  bool is_free(PageId page) const { return state_[index(page)] == State::free; }
  bool is_granted(PageId page) const { return state_[index(page)] == State::granted; }

  // I1, as far as the pool can see. O(total).
  void check() const;

 private:
  enum class State : uint8_t { free, granted, limbo, dummy };
  size_t index(PageId page) const;

  StepId committed_ = 0;
  std::vector<State> state_;   // by page
  std::vector<StepId> fence_;  // by page in limbo: the step that frees it
  std::vector<PageId> free_;   // a stack
  std::vector<PageId> limbo_;
};

}  // namespace fathom::cache
