#include "fathom/runtime/draft_tree.h"

#include <algorithm>
#include <numeric>

#include "fathom/base/check.h"

namespace fathom::runtime {
namespace {

constexpr int kMostNodes = 64;  // bits of a mask

}  // namespace

plan::Lookahead Speculation::lookahead() const {
  const int branches = topk * (steps - 1) + 1;
  return {
      .advance_max = std::min(steps, nodes - 1) + 1,
      .span = std::max({nodes, steps + 2, branches}),
      .width = nodes,
  };
}

Result<void> validate(const Speculation& s) {
  if (s.steps < 1 || s.topk < 1) {
    return error(
        "--speculative-num-steps {} and --speculative-eagle-topk {} must be positive",
        s.steps,
        s.topk
    );
  }
  const int pool = s.topk + (s.steps - 1) * s.topk * s.topk;
  if (s.nodes < 2 || s.nodes - 1 > pool || s.nodes > kMostNodes || s.topk * s.steps > kMostNodes) {
    return error(
        "--speculative-num-draft-tokens {}: from 2 to {} with {} steps and top-k {}",
        s.nodes,
        std::min(pool + 1, kMostNodes),
        s.steps,
        s.topk
    );
  }
  if (!(s.least >= 0.0f && s.least <= 1.0f))
    return error("--speculative-draft-p-min {} lies from 0 to 1", s.least);
  const auto share = [](float t) { return t > 0.0f && t <= 1.0f; };
  if (!share(s.threshold_single) || !share(s.threshold_acc)) {
    return error("--speculative-accept-threshold-single and -acc lie above 0, at most at 1");
  }
  return {};
}

bool DraftTree::chain() const {
  for (size_t i = 1; i < nodes.size(); ++i) {
    if (nodes[i].parent != static_cast<int32_t>(i) - 1) return false;
  }
  return true;
}

int32_t DraftTree::child(int32_t node, plan::Token token) const {
  for (size_t i = static_cast<size_t>(node) + 1; i < nodes.size(); ++i) {
    if (nodes[i].parent == node && nodes[i].token == token) return static_cast<int32_t>(i);
  }
  return -1;
}

void TreeGrower::start(std::span<const Candidate> candidates) {
  pool_.clear();
  branches_.clear();
  branched_ = 0;
  for (const Candidate& candidate : candidates)
    pool_.push_back({candidate.token, candidate.probability, -1});
  keep_best(0, candidates.size());
}

void TreeGrower::grow(std::span<const Candidate> candidates) {
  const size_t topk = branches_.size(), from = pool_.size();
  CHECK(candidates.size() == topk * topk, "{} candidates of {} branches", candidates.size(), topk);
  for (size_t i = 0; i < candidates.size(); ++i) {
    const int32_t parent = branches_[i / topk].id;
    const float score = pool_[static_cast<size_t>(parent)].score * candidates[i].probability;
    pool_.push_back({candidates[i].token, score, parent});
  }
  keep_best(from, topk);
}

// The branches of this level: the `count` best entries behind `from`.
void TreeGrower::keep_best(size_t from, size_t count) {
  order_.resize(pool_.size() - from);
  std::iota(order_.begin(), order_.end(), static_cast<int32_t>(from));
  std::ranges::stable_sort(order_, std::greater<>(), [&](int32_t id) {
    return pool_[static_cast<size_t>(id)].score;
  });
  std::swap(before_, branches_);
  branches_.clear();
  for (size_t j = 0; j < count; ++j) {
    const int32_t id = order_[j];
    const int32_t parent = pool_[static_cast<size_t>(id)].parent;
    Branch branch{.id = id, .mask = int64_t{1} << branched_++};
    if (parent >= 0) {
      branch.origin = (id - static_cast<int32_t>(from)) / static_cast<int32_t>(count);
      branch.mask |= before_[static_cast<size_t>(branch.origin)].mask;
    }
    branches_.push_back(branch);
  }
}

void TreeGrower::select(plan::Token root, int nodes, DraftTree& tree) {
  const size_t chosen = std::min(static_cast<size_t>(nodes) - 1, pool_.size());
  order_.resize(pool_.size());
  std::iota(order_.begin(), order_.end(), 0);
  std::ranges::stable_sort(order_, std::greater<>(), [&](int32_t id) {
    return pool_[static_cast<size_t>(id)].score;
  });
  std::sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(chosen));
  node_of_.assign(pool_.size(), -1);
  tree.nodes.assign(1, {.token = root, .parent = -1, .depth = 0, .mask = 1});
  for (size_t i = 0; i < chosen; ++i) {
    const Entry& entry = pool_[static_cast<size_t>(order_[i])];
    const int32_t parent = entry.parent < 0 ? 0 : node_of_[static_cast<size_t>(entry.parent)];
    CHECK(parent >= 0, "drafted token {} comes without its parent", i);
    const DraftTree::Node above = tree.nodes[static_cast<size_t>(parent)];
    const auto node = static_cast<int32_t>(tree.nodes.size());
    node_of_[static_cast<size_t>(order_[i])] = node;
    tree.nodes.push_back({entry.token, parent, above.depth + 1, above.mask | int64_t{1} << node});
  }
}

}  // namespace fathom::runtime
