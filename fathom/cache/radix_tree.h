// The prefix cache: which committed token prefixes have their KV in which pages.
//
// A radix tree whose edges are one page of tokens long (page_size 1 .. 64), so that a node is a
// page and carries its number; a child is found by hashing (parent, tokens of its page). Keys begin
// with a namespace (T4). Everything is laid out at construction: nothing allocates later.
//
//   lock      a path from a root that cannot be evicted; every sequence with a table holds one. A
//             node's count is the number of locks whose path contains it (P5), so a parent's is at
//             least its child's.
//   order     unlocked nodes stand in one list, least recently used first. "Used" is the release of
//             the last lock. A release appends deepest first, and a parent is never unlocked before
//             its child: hence a child always stands before its parent, and the head of the list is
//             always an unlocked leaf, the one to evict (T3).
//   fence     a node remembers the latest step that any unlocker used; evicting retires its page
//             with that (P4).
// One thread.
// Feature radix_cache off keeps this code and gives every sequence a name space of its own (T4).
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "fathom/cache/page_pool.h"

namespace fathom::cache {

using plan::Token;

class RadixTree {
 public:
  // A locked path. Move-only; empty when default-made or released. Dropping one that still holds
  // pages is a programmer's error.
  class Lock {
   public:
    Lock() = default;
    Lock(Lock&& other) noexcept { *this = std::move(other); }
    Lock& operator=(Lock&& other) noexcept;
    ~Lock();

    int pages() const { return pages_; }
    // `last_use`: the holder's last planned step, 0 when it has none.
    void release(StepId last_use);

   private:
    friend class RadixTree;
    RadixTree* tree_ = nullptr;
    uint64_t space_ = 0;
    PageId last_ = 0;  // deepest node of the path
    int pages_ = 0;
  };

  RadixTree(int total_pages, int page_size);

  // T1: locks the longest path that holds a prefix of `tokens` in whole pages and appends its pages
  // to `pages`. The caller cuts `tokens` to what may be matched.
  Lock match(uint64_t space, std::span<const Token> tokens, std::vector<PageId>& pages);

  // How many pages match() would find. No lock, and no use.
  int peek(uint64_t space, std::span<const Token> tokens) const;

  // T2: continues the path of `lock` with the whole pages of `tokens`, taken from `table` (the
  // holder's pages, those of `lock` first). Where the tree has such a page already, the table's
  // entry becomes the tree's and the holder's page is retired with `last_use`. The lock then holds
  // all of it.
  void insert(
      Lock& lock,
      std::span<const Token> tokens,
      std::span<PageId> table,
      StepId last_use,
      PagePool& pool
  );

  // T3: evicts up to `pages` unlocked leaves, least recently used first; how many it found.
  int evict(int pages, PagePool& pool);

  // T5: drops every node; false, with nothing changed, when one is locked.
  bool flush(PagePool& pool);

  // F3: empty, whatever it held; the pool is reset beside it. No lock may be held.
  void reset();

  int pages() const { return pages_; }
  int evictable() const { return evictable_; }
  // Pages of `lock` that no other lock holds: they become evictable when it is released (V1).
  int held_alone(const Lock& lock) const;
  bool contains(PageId page) const { return node(page).locks >= 0; }
  int locks(PageId page) const { return node(page).locks; }

  // I7: parents present, counts, order, every node found by its key. O(total).
  void check() const;

 private:
  struct Node {
    PageId parent = 0;   // 0: a root's child
    int32_t locks = -1;  // -1: not in the tree
    int32_t children = 0;
    PageId older = 0, newer = 0;  // the list of unlocked nodes; node 0 is both its ends
    StepId last_use = 0;
    uint64_t space = 0;
    uint64_t hash = 0;
  };

  Node& node(PageId page) { return nodes_[static_cast<size_t>(page)]; }
  const Node& node(PageId page) const { return nodes_[static_cast<size_t>(page)]; }
  std::span<const Token> tokens_of(PageId page) const;
  uint64_t hash_of(PageId parent, uint64_t space, std::span<const Token> tokens) const;
  PageId find(PageId parent, uint64_t space, std::span<const Token> tokens) const;
  void add_node(PageId page, PageId parent, uint64_t space, std::span<const Token> tokens);
  void drop_node(PageId page, PagePool& pool);
  void erase_slot(PageId page);
  void lock_node(PageId page);
  void unlock_node(PageId page, StepId last_use);
  void link_newest(PageId page);
  void unlink(PageId page);

  size_t page_size_;
  int pages_ = 0;
  int evictable_ = 0;
  std::vector<Node> nodes_;    // by page
  std::vector<Token> tokens_;  // by page, page_size each
  std::vector<PageId> slots_;  // hash table, linear probing; 0 is empty
};

}  // namespace fathom::cache
