// In which order sequences that are outside (waiting or swapped) may enter. A policy proposes; each
// sequence can be passed a bounded number of times, then age decides (contracts.md A3), so no
// policy can starve anyone. Scheduler thread only.
#pragma once

#include <memory>
#include <span>

#include "fathom/cache/radix_tree.h"
#include "fathom/sched/options.h"
#include "fathom/sched/sequence.h"

namespace fathom::sched {

class Policy {
 public:
  virtual ~Policy() = default;
  // Reorders sequences that come oldest first. Must not allocate.
  virtual void order(std::span<Sequence*> outside, const cache::RadixTree& tree) const = 0;
};

// fcfs: by age. lpm: longest prefix in the cache first, among the oldest 128. priority: higher
// Request::priority first. Under the latter two, sequences that were preempted come before new
// ones.
std::unique_ptr<Policy> make_policy(PolicyKind kind);

// Older: earlier arrival, then lower choice (S5).
inline bool older(const Sequence& a, const Sequence& b) {
  return a.arrival != b.arrival ? a.arrival < b.arrival : a.choice < b.choice;
}

}  // namespace fathom::sched
