#include "fathom/cache/radix_tree.h"

#include <algorithm>
#include <bit>

#include "fathom/base/check.h"

namespace fathom::cache {

RadixTree::Lock& RadixTree::Lock::operator=(Lock&& other) noexcept {
  CHECK(pages_ == 0, "a lock of {} pages is overwritten before its release", pages_);
  tree_ = other.tree_;
  space_ = other.space_;
  last_ = std::exchange(other.last_, 0);
  pages_ = std::exchange(other.pages_, 0);
  return *this;
}

RadixTree::Lock::~Lock() {
  CHECK(pages_ == 0, "a lock of {} pages is dropped before its release", pages_);
}

void RadixTree::Lock::release(StepId last_use) {
  while (last_ != 0) {
    const PageId parent = tree_->node(last_).parent;
    tree_->unlock_node(last_, last_use);
    last_ = parent;
  }
  pages_ = 0;
}

RadixTree::RadixTree(int total_pages, int page_size) : page_size_(static_cast<size_t>(page_size)) {
  CHECK(page_size >= 1 && page_size <= 64, "page size {} is not in 1 .. 64", page_size);
  CHECK(total_pages >= 1, "a tree over {} pages", total_pages);
  nodes_.resize(static_cast<size_t>(total_pages));
  tokens_.resize(nodes_.size() * page_size_);
  slots_.resize(std::bit_ceil(nodes_.size() * 2));
}

RadixTree::Lock RadixTree::match(
    uint64_t space, std::span<const Token> tokens, std::vector<PageId>& pages
) {
  Lock lock;
  lock.tree_ = this;
  lock.space_ = space;
  for (; tokens.size() >= page_size_; tokens = tokens.subspan(page_size_)) {
    const PageId page = find(lock.last_, space, tokens.first(page_size_));
    if (page == 0) break;
    lock_node(page);
    lock.last_ = page;
    ++lock.pages_;
    pages.push_back(page);
  }
  return lock;
}

int RadixTree::peek(uint64_t space, std::span<const Token> tokens) const {
  int pages = 0;
  for (PageId last = 0; tokens.size() >= page_size_; tokens = tokens.subspan(page_size_)) {
    last = find(last, space, tokens.first(page_size_));
    if (last == 0) break;
    ++pages;
  }
  return pages;
}

void RadixTree::insert(
    Lock& lock,
    std::span<const Token> tokens,
    std::span<PageId> table,
    StepId last_use,
    PagePool& pool
) {
  CHECK(lock.tree_ == this, "insert under a lock that match() did not make");
  const size_t whole = tokens.size() / page_size_;
  CHECK(whole <= table.size(), "{} whole pages but a table of {}", whole, table.size());
  for (size_t i = static_cast<size_t>(lock.pages_); i < whole; ++i) {
    const auto key = tokens.subspan(i * page_size_, page_size_);
    const PageId present = find(lock.last_, lock.space_, key);
    if (present == 0) {
      CHECK(pool.is_granted(table[i]), "page {} enters the tree but is not granted", table[i]);
      add_node(table[i], lock.last_, lock.space_, key);
    } else {
      pool.retire(table.subspan(i, 1), last_use);  // a step in flight may read it
      table[i] = present;
    }
    lock_node(table[i]);
    lock.last_ = table[i];
    ++lock.pages_;
  }
}

int RadixTree::evict(int pages, PagePool& pool) {
  int evicted = 0;
  for (; evicted < pages && evictable_ > 0; ++evicted) drop_node(node(0).newer, pool);
  return evicted;
}

bool RadixTree::flush(PagePool& pool) {
  if (evictable_ != pages_) return false;
  evict(pages_, pool);
  return true;
}

void RadixTree::reset() {
  CHECK(evictable_ == pages_, "{} pages are locked at a reset", pages_ - evictable_);
  std::ranges::fill(nodes_, Node{});
  std::ranges::fill(slots_, 0);
  pages_ = evictable_ = 0;
}

int RadixTree::held_alone(const Lock& lock) const {
  int pages = 0;
  for (PageId page = lock.last_; page != 0; page = node(page).parent) {
    if (node(page).locks > 1) break;  // its ancestors have at least as many
    ++pages;
  }
  return pages;
}

std::span<const Token> RadixTree::tokens_of(PageId page) const {
  return std::span(tokens_).subspan(static_cast<size_t>(page) * page_size_, page_size_);
}

uint64_t RadixTree::hash_of(PageId parent, uint64_t space, std::span<const Token> tokens) const {
  uint64_t hash = space ^ (static_cast<uint64_t>(parent) * 0x9E3779B97F4A7C15u);
  for (const Token token : tokens) {
    hash = (hash ^ static_cast<uint32_t>(token)) * 0xBF58476D1CE4E5B9u;
    hash ^= hash >> 29;
  }
  return hash;
}

PageId RadixTree::find(PageId parent, uint64_t space, std::span<const Token> tokens) const {
  if (parent != 0 && node(parent).children == 0) return 0;
  const uint64_t hash = hash_of(parent, space, tokens);
  const size_t mask = slots_.size() - 1;
  for (size_t i = hash & mask; slots_[i] != 0; i = (i + 1) & mask) {
    const Node& n = node(slots_[i]);
    if (n.hash == hash && n.parent == parent && n.space == space &&
        std::ranges::equal(tokens_of(slots_[i]), tokens)) {
      return slots_[i];
    }
  }
  return 0;
}

void RadixTree::add_node(
    PageId page, PageId parent, uint64_t space, std::span<const Token> tokens
) {
  Node& n = node(page);
  CHECK(n.locks < 0, "page {} enters the tree twice", page);
  n = {.parent = parent, .space = space, .hash = hash_of(parent, space, tokens)};
  std::ranges::copy(tokens, tokens_.begin() + static_cast<int64_t>(page) * page_size_);
  n.locks = 0;
  link_newest(page);
  ++pages_;
  ++evictable_;
  if (parent != 0) ++node(parent).children;
  const size_t mask = slots_.size() - 1;
  size_t i = n.hash & mask;
  while (slots_[i] != 0) i = (i + 1) & mask;
  slots_[i] = page;
}

void RadixTree::drop_node(PageId page, PagePool& pool) {
  Node& n = node(page);
  CHECK(n.locks == 0 && n.children == 0, "page {} is evicted but not an unlocked leaf", page);
  unlink(page);
  erase_slot(page);
  n.locks = -1;
  --pages_;
  --evictable_;
  if (n.parent != 0) --node(n.parent).children;
  pool.retire(std::span(&page, 1), n.last_use);
}

// Linear probing without tombstones: later entries of the cluster move up into the hole where their
// home slot allows it.
void RadixTree::erase_slot(PageId page) {
  const size_t mask = slots_.size() - 1;
  size_t hole = node(page).hash & mask;
  while (slots_[hole] != page) hole = (hole + 1) & mask;
  for (size_t i = (hole + 1) & mask; slots_[i] != 0; i = (i + 1) & mask) {
    const size_t home = node(slots_[i]).hash & mask;
    if (((i - home) & mask) >= ((i - hole) & mask)) {
      slots_[hole] = slots_[i];
      hole = i;
    }
  }
  slots_[hole] = 0;
}

void RadixTree::lock_node(PageId page) {
  if (node(page).locks++ > 0) return;
  unlink(page);
  --evictable_;
}

void RadixTree::unlock_node(PageId page, StepId last_use) {
  Node& n = node(page);
  CHECK(n.locks > 0, "page {} is unlocked but not locked", page);
  n.last_use = std::max(n.last_use, last_use);
  if (--n.locks > 0) return;
  link_newest(page);
  ++evictable_;
}

void RadixTree::link_newest(PageId page) {
  Node& end = node(0);
  node(page).older = end.older;
  node(page).newer = 0;
  node(end.older).newer = page;
  end.older = page;
}

void RadixTree::unlink(PageId page) {
  const Node& n = node(page);
  node(n.older).newer = n.newer;
  node(n.newer).older = n.older;
}

void RadixTree::check() const {
  std::vector<int> children(nodes_.size()), place(nodes_.size(), -1);
  int unlocked = 0, inside = 0;
  for (PageId page = node(0).newer; page != 0; page = node(page).newer) {
    CHECK(node(page).locks == 0, "page {} stands in order but is locked", page);
    CHECK(node(node(page).newer).older == page, "the order is broken at page {}", page);
    place[static_cast<size_t>(page)] = unlocked++;
  }
  for (PageId page = 1; page < static_cast<PageId>(nodes_.size()); ++page) {
    const Node& n = node(page);
    if (n.locks < 0) continue;
    ++inside;
    CHECK(find(n.parent, n.space, tokens_of(page)) == page, "page {} is not found", page);
    CHECK((n.locks == 0) == (place[static_cast<size_t>(page)] >= 0), "order of page {}", page);
    if (n.parent == 0) continue;
    const Node& parent = node(n.parent);
    ++children[static_cast<size_t>(n.parent)];
    CHECK(parent.locks >= n.locks && parent.space == n.space, "page {} has no such parent", page);
    CHECK(
        parent.locks > 0 || place[static_cast<size_t>(page)] < place[static_cast<size_t>(n.parent)],
        "page {} stands after its parent",
        page
    );
  }
  for (size_t i = 1; i < nodes_.size(); ++i) {
    CHECK(nodes_[i].locks < 0 || children[i] == nodes_[i].children, "children of page {}", i);
  }
  CHECK(inside == pages_ && unlocked == evictable_, "{} nodes, {} unlocked", inside, unlocked);
}

}  // namespace fathom::cache
