// RadixTree against a std::map of whole-page prefixes (contracts.md section 13, 3).
#include "fathom/cache/radix_tree.h"

#include <gtest/gtest.h>

#include <list>
#include <map>
#include <optional>
#include <random>

#include "fathom/base/check.h"
#include "fathom/testing/scale.h"

namespace fathom::cache {
namespace {

using Tokens = std::vector<Token>;
using Key = std::pair<uint64_t, Tokens>;  // namespace, whole pages

// What the tree promises, with no structure at all: prefixes, who locks each, and the order in
// which unlocked ones were last released.
class NaiveTree {
 public:
  struct Entry {
    PageId page = 0;
    int locks = 0;
    StepId last_use = 0;
    int64_t released = 0;  // clock of the last release, deepest first
  };

  explicit NaiveTree(size_t page_size) : page_size_(page_size) {}

  size_t match(uint64_t space, const Tokens& tokens) const {
    size_t pages = 0;
    while ((pages + 1) * page_size_ <= tokens.size() &&
           entries_.contains(key(space, tokens, pages + 1))) {
      ++pages;
    }
    return pages;
  }
  Entry& entry(uint64_t space, const Tokens& tokens, size_t pages) {
    return entries_[key(space, tokens, pages)];
  }
  bool contains(uint64_t space, const Tokens& tokens, size_t pages) const {
    return entries_.contains(key(space, tokens, pages));
  }
  void release(uint64_t space, const Tokens& tokens, size_t pages, StepId last_use) {
    for (; pages > 0; --pages) {
      Entry& e = entry(space, tokens, pages);
      --e.locks;
      e.last_use = std::max(e.last_use, last_use);
      e.released = ++clock_;
    }
  }
  // The unlocked leaf that was released first; the page and its fence.
  std::optional<Entry> evict() {
    auto oldest = entries_.end();
    for (auto at = entries_.begin(); at != entries_.end(); ++at) {
      if (at->second.locks > 0 || !leaf(at->first)) continue;
      if (oldest == entries_.end() || at->second.released < oldest->second.released) oldest = at;
    }
    if (oldest == entries_.end()) return std::nullopt;
    const Entry entry = oldest->second;
    entries_.erase(oldest);
    return entry;
  }
  int unlocked() const {
    int n = 0;
    for (const auto& [k, e] : entries_) n += e.locks == 0;
    return n;
  }
  int size() const { return static_cast<int>(entries_.size()); }

 private:
  Key key(uint64_t space, const Tokens& tokens, size_t pages) const {
    return {
        space, Tokens(tokens.begin(), tokens.begin() + static_cast<int64_t>(pages * page_size_))};
  }
  // A longer prefix that begins like `k` would follow it in the map's order.
  bool leaf(const Key& k) const {
    const auto next = entries_.upper_bound(k);
    return next == entries_.end() || next->first.first != k.first ||
           next->first.second.size() <= k.second.size() ||
           !std::equal(k.second.begin(), k.second.end(), next->first.second.begin());
  }

  size_t page_size_;
  int64_t clock_ = 0;
  std::map<Key, Entry> entries_;
};

// A sequence: tokens, a table, and a lock on its beginning.
struct Holder {
  uint64_t space;
  Tokens tokens;
  std::vector<PageId> table;
  RadixTree::Lock lock;
};

class Pair {
 public:
  Pair(int pages, int page_size, uint64_t seed)
      : page_size_(static_cast<size_t>(page_size)),
        pool_(pages),
        tree_(pages, page_size),
        naive_(page_size_),
        random_(seed) {}
  ~Pair() {
    for (Holder& h : holders_) h.lock.release(0);
  }

  void operation() {
    switch (random_() % 8) {
      case 0:
      case 1:
        if (holders_.size() < 6) enter();
        break;
      case 2:
      case 3:
        if (!holders_.empty()) grow(pick());
        break;
      case 4:
        if (!holders_.empty()) leave(pick());
        break;
      case 5:
        evict();
        break;
      case 6:
        if (committed_ < planned_) pool_.committed(++committed_);
        break;
      default:
        ++planned_;
    }
    CHECK(tree_.pages() == naive_.size(), "{} pages, naive {}", tree_.pages(), naive_.size());
    CHECK(tree_.evictable() == naive_.unlocked(), "{} evictable", tree_.evictable());
  }
  void check() const { tree_.check(), pool_.check(); }
  int evictions() const { return evictions_; }
  int duplicates() const { return duplicates_; }

 private:
  std::list<Holder>::iterator pick() {
    return std::next(holders_.begin(), static_cast<int64_t>(random_() % holders_.size()));
  }

  void enter() {
    Holder h{.space = random_() % 2};
    const size_t length = random_() % (6 * page_size_ + 1);
    // Few different pages, so that prefixes meet; some differ in their last token only.
    for (size_t i = 0; i < length; ++i) {
      const bool begins = i % page_size_ == 0, ends = (i + 1) % page_size_ == 0;
      h.tokens.push_back(begins ? static_cast<Token>(random_() % 2) : h.tokens.back());
      if (ends && random_() % 16 == 0) h.tokens.back() = 2;
    }
    CHECK(
        tree_.peek(h.space, h.tokens) == static_cast<int>(naive_.match(h.space, h.tokens)), "peek"
    );
    h.lock = tree_.match(h.space, h.tokens, h.table);
    const size_t found = naive_.match(h.space, h.tokens);
    CHECK(h.table.size() == found && h.lock.pages() == static_cast<int>(found), "match {}", found);
    for (size_t i = 1; i <= found; ++i) {
      NaiveTree::Entry& e = naive_.entry(h.space, h.tokens, i);
      CHECK(e.page == h.table[i - 1], "page {} of the match", i);
      ++e.locks;
    }
    holders_.push_back(std::move(h));
    check_alone(holders_.back());
  }

  void grow(std::list<Holder>::iterator h) {
    const size_t whole = h->tokens.size() / page_size_;
    if (!pool_.grant(static_cast<int>(whole - h->table.size()), h->table)) return;
    const size_t upto = h->tokens.empty() ? 0 : random_() % (h->tokens.size() + 1);
    const std::vector<PageId> before = h->table;
    tree_.insert(h->lock, std::span(h->tokens).first(upto), h->table, planned_, pool_);
    const size_t inserted = std::max(upto / page_size_, locked_[&*h]);
    for (size_t i = locked_[&*h] + 1; i <= inserted; ++i) {
      const bool present = naive_.contains(h->space, h->tokens, i);
      NaiveTree::Entry& e = naive_.entry(h->space, h->tokens, i);
      if (!present) e.page = before[i - 1];
      duplicates_ += present;
      CHECK(!present || before[i - 1] != e.page, "page {} entered twice", e.page);
      CHECK(!present || !pool_.is_granted(before[i - 1]), "a duplicate was kept");
      CHECK(h->table[i - 1] == e.page, "the table was not brought to the tree's page");
      ++e.locks;
    }
    locked_[&*h] = inserted;
    CHECK(h->lock.pages() == static_cast<int>(inserted), "lock of {}", h->lock.pages());
  }

  void leave(std::list<Holder>::iterator h) {
    const StepId last_use = random_() % 2 ? planned_ : committed_;
    const auto locked = static_cast<size_t>(h->lock.pages());
    h->lock.release(last_use);
    naive_.release(h->space, h->tokens, locked, last_use);
    pool_.retire(std::span(h->table).subspan(locked), last_use);
    locked_.erase(&*h);
    holders_.erase(h);
  }

  void evict() {
    const int wanted = static_cast<int>(random_() % 4);
    std::vector<NaiveTree::Entry> gone;
    while (static_cast<int>(gone.size()) < wanted) {
      const auto entry = naive_.evict();
      if (!entry) break;
      gone.push_back(*entry);
    }
    const int evicted = tree_.evict(wanted, pool_);
    CHECK(evicted == static_cast<int>(gone.size()), "{} evicted, naive {}", evicted, gone.size());
    for (const NaiveTree::Entry& e : gone) {
      CHECK(!tree_.contains(e.page), "page {} should have gone first", e.page);
      CHECK(pool_.is_free(e.page) == (e.last_use <= committed_), "fence of page {}", e.page);
    }
    evictions_ += evicted;
  }

  void check_alone(const Holder& h) {
    int alone = 0;
    for (const PageId page : h.table) alone += tree_.locks(page) == 1;
    CHECK(tree_.held_alone(h.lock) == alone, "{} pages held alone", alone);
    locked_[&h] = static_cast<size_t>(h.lock.pages());
  }

  size_t page_size_;
  PagePool pool_;
  RadixTree tree_;
  NaiveTree naive_;
  std::mt19937_64 random_;
  std::list<Holder> holders_;
  std::map<const Holder*, size_t> locked_;
  StepId planned_ = 0, committed_ = 0;
  int evictions_ = 0, duplicates_ = 0;
};

TEST(RadixTree, AgreesWithAMapOfPrefixes) {
  constexpr int kOperations = 1'000'000;
  constexpr int kPageSizes[] = {1, 2, 4, 16, 64};
  for (const int page_size : kPageSizes) {
    SCOPED_TRACE("page size " + std::to_string(page_size));
    Pair pair(48, page_size, static_cast<uint64_t>(page_size));
    ASSERT_NO_THROW(for (int i = 0; i < testing::scaled(kOperations / 5); ++i) {
      pair.operation();
      if (i % 64 == 0) pair.check();
    });
    EXPECT_GT(pair.evictions(), 100);
    EXPECT_GT(pair.duplicates(), 20);
  }
}

TEST(RadixTree, EvictsTheLeastRecentlyReleasedLeafFirst) {
  PagePool pool(10);
  RadixTree tree(10, 2);
  const Tokens a{1, 2, 3, 4}, b{1, 2, 5, 6};
  for (const Tokens& tokens : {a, b}) {
    std::vector<PageId> table;
    RadixTree::Lock lock = tree.match(0, tokens, table);
    ASSERT_TRUE(pool.grant(2 - lock.pages(), table));
    tree.insert(lock, tokens, table, 0, pool);
    lock.release(0);
  }
  ASSERT_EQ(tree.pages(), 3);
  std::vector<PageId> table;
  tree.match(0, a, table).release(0);  // now b's leaf is the oldest
  EXPECT_EQ(tree.evict(1, pool), 1);
  EXPECT_EQ(tree.peek(0, a), 2);
  EXPECT_EQ(tree.peek(0, b), 1);
  EXPECT_EQ(tree.evict(9, pool), 2);
  EXPECT_EQ(pool.free(), 9);
}

TEST(RadixTree, LockedPathsStay) {
  PagePool pool(5);
  RadixTree tree(5, 1);
  const Tokens tokens{1, 2, 3};
  std::vector<PageId> table;
  RadixTree::Lock lock = tree.match(7, tokens, table);
  ASSERT_TRUE(pool.grant(3, table));
  tree.insert(lock, tokens, table, 4, pool);
  EXPECT_EQ(tree.evict(3, pool), 0);
  EXPECT_FALSE(tree.flush(pool));
  lock.release(4);
  EXPECT_TRUE(tree.flush(pool));
  EXPECT_EQ(pool.in_limbo(), 3);  // step 4 may still read them
  pool.committed(4);
  EXPECT_EQ(pool.free(), 4);
}

TEST(RadixTree, NamespacesShareNothing) {
  PagePool pool(5);
  RadixTree tree(5, 1);
  const Tokens tokens{1, 2};
  std::vector<PageId> table;
  RadixTree::Lock lock = tree.match(1, tokens, table);
  ASSERT_TRUE(pool.grant(2, table));
  tree.insert(lock, tokens, table, 0, pool);
  EXPECT_EQ(tree.peek(1, tokens), 2);
  EXPECT_EQ(tree.peek(2, tokens), 0);
  lock.release(0);
}

}  // namespace
}  // namespace fathom::cache
