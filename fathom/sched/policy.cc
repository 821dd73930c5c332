#include "fathom/sched/policy.h"

#include <algorithm>

#include "fathom/base/check.h"

namespace fathom::sched {
namespace {

class FirstComeFirstServed : public Policy {
 public:
  void order(std::span<Sequence*>, const cache::RadixTree&) const override {}
};

// Sorts by `better`, a number of which more is better; preempted ones first; ties by age.
template <class F>
void sort_by(std::span<Sequence*> outside, F better) {
  std::ranges::sort(outside, [&](const Sequence* a, const Sequence* b) {
    if (a->admitted != b->admitted) return a->admitted;
    if (!a->admitted && better(*a) != better(*b)) return better(*a) > better(*b);
    return older(*a, *b);
  });
}

class LongestPrefixMatch : public Policy {
 public:
  void order(std::span<Sequence*> outside, const cache::RadixTree& tree) const override {
    const auto window = outside.first(std::min<size_t>(outside.size(), kWindow));
    for (Sequence* s : window) s->match = s->admitted ? 0 : tree.peek(s->space, s->tokens);
    sort_by(window, [](const Sequence& s) { return s.match; });
  }

 private:
  // Bounds the look-ups of a plan under a long queue.
  static constexpr size_t kWindow = 128;
};

class HighestPriority : public Policy {
 public:
  void order(std::span<Sequence*> outside, const cache::RadixTree&) const override {
    sort_by(outside, [](const Sequence& s) { return s.request->priority; });
  }
};

}  // namespace

std::unique_ptr<Policy> make_policy(PolicyKind kind) {
  switch (kind) {
    case PolicyKind::fcfs:
      return std::make_unique<FirstComeFirstServed>();
    case PolicyKind::lpm:
      return std::make_unique<LongestPrefixMatch>();
    case PolicyKind::priority:
      return std::make_unique<HighestPriority>();
  }
  CHECK(false, "policy {}", static_cast<int>(kind));
}

}  // namespace fathom::sched
