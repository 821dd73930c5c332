#include "fathom/cache/page_pool.h"

#include "fathom/base/check.h"

namespace fathom::cache {

PagePool::PagePool(int total) {
  CHECK(total >= 1, "a pool of {} pages has no room for the dummy page", total);
  state_.resize(static_cast<size_t>(total));
  fence_.resize(state_.size());
  free_.reserve(state_.size());
  limbo_.reserve(state_.size());
  reset(0);
}

size_t PagePool::index(PageId page) const {
  CHECK(page >= 0 && page < total(), "page {} of a pool of {}", page, total());
  return static_cast<size_t>(page);
}

void PagePool::reset(StepId step) {
  committed_ = step;
  free_.clear();
  limbo_.clear();
  state_[0] = State::dummy;
  for (PageId page = total() - 1; page > 0; --page) {  // the lowest is granted first
    state_[index(page)] = State::free;
    free_.push_back(page);
  }
}

bool PagePool::grant(int n, std::vector<PageId>& to) {
  CHECK(n >= 0, "grant of {} pages", n);
  if (n > free()) return false;
  for (int i = 0; i < n; ++i) {
    const PageId page = free_.back();
    free_.pop_back();
    state_[index(page)] = State::granted;
    to.push_back(page);
  }
  return true;
}

void PagePool::retire(std::span<const PageId> pages, StepId last_use) {
  for (const PageId page : pages) {
    CHECK(is_granted(page), "page {} is retired but nobody holds it", page);
    if (last_use <= committed_) {
      state_[index(page)] = State::free;
      free_.push_back(page);
    } else {
      state_[index(page)] = State::limbo;
      fence_[index(page)] = last_use;
      limbo_.push_back(page);
    }
  }
}

void PagePool::committed(StepId step) {
  CHECK(step > committed_, "step {} is committed after step {}", step, committed_);
  committed_ = step;
  size_t kept = 0;
  for (const PageId page : limbo_) {
    if (fence_[index(page)] > step) {
      limbo_[kept++] = page;
    } else {
      state_[index(page)] = State::free;
      free_.push_back(page);
    }
  }
  limbo_.resize(kept);
}

void PagePool::check() const {
  int counts[4] = {};
  for (const State state : state_) ++counts[static_cast<int>(state)];
  CHECK(state_[0] == State::dummy && counts[3] == 1, "the dummy page is not alone");
  CHECK(counts[0] == free(), "{} pages are marked free, {} are listed", counts[0], free());
  CHECK(counts[2] == in_limbo(), "{} pages are marked limbo, {} are listed", counts[2], in_limbo());
  for (const PageId page : free_) CHECK(is_free(page), "page {} is listed as free", page);
  for (const PageId page : limbo_) {
    CHECK(state_[index(page)] == State::limbo, "page {} is listed as in limbo", page);
    CHECK(fence_[index(page)] > committed_, "page {} should have left limbo", page);
  }
}

}  // namespace fathom::cache
