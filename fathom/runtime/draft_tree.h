// The tree of drafted tokens that one decode row verifies (EAGLE-2, section 4; specs deepseek_v3,
// section 8), and how it grows from the draft layer's candidates. Host logic only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fathom/base/result.h"
#include "fathom/plan/batch.h"

namespace fathom::runtime {

// How far and how wide to draft.
struct Speculation {
  int steps = 3;  // levels of drafted tokens (S)
  int topk = 1;   // branches kept at each level (k); 1: a chain
  int nodes = 4;  // most tokens that a row verifies, the last known one among them (V)
  // A chain grows on only behind tokens that the draft layer holds so likely in all, their
  // probabilities multiplied; 0: always.
  float least = 0.9f;
  // Below 1 a drafted token is also accepted when its own probability, or that of the tokens up to
  // it over the second, says so; then the output's law is no longer the model's (section 8.3).
  float threshold_single = 1.0f;
  float threshold_acc = 1.0f;

  bool exact() const { return threshold_single >= 1.0f && threshold_acc >= 1.0f; }
  // A row adds at most one token a level and one more; it writes its own nodes, or while drafting
  // the branches behind the last known token, or the draft row of the token behind all accepted.
  plan::Lookahead lookahead() const;
};

// The Error names the flag.
Result<void> validate(const Speculation& speculation);

// A token that the draft layer proposes, and how likely it holds it.
struct Candidate {
  plan::Token token = 0;
  float probability = 0;
};

struct DraftTree {
  struct Node {
    plan::Token token = 0;
    int32_t parent = -1;
    int32_t depth = 0;
    int64_t mask = 0;  // bit i: node i is on the way to this one, which is on it itself
  };
  std::vector<Node> nodes;  // the root first, parents before children, likelier siblings first

  // Node i's parent is node i - 1, for all.
  bool chain() const;
  // The child of `node` that holds `token`; -1: none does.
  int32_t child(int32_t node, plan::Token token) const;
};

// Grows one tree: start(), then grow() for each further level, then select(). All candidates of all
// levels stay in a pool; each level goes on from its `topk` likeliest. Reused from row to row.
class TreeGrower {
 public:
  // A candidate that the next level goes on from.
  struct Branch {
    int32_t id = 0;      // in the pool
    int32_t origin = 0;  // the branch of the level before that it came from
    int64_t mask = 0;    // its ancestors and itself among all branches so far, in order
  };

  // The candidates of the root's child, likeliest first.
  void start(std::span<const Candidate> candidates);
  // Of the likeliest branch, the product of the probabilities on the way to it.
  float score() const { return pool_[static_cast<size_t>(branches_.front().id)].score; }
  // What the level before goes on from.
  std::span<const Branch> branches() const { return branches_; }
  plan::Token token(const Branch& branch) const {
    return pool_[static_cast<size_t>(branch.id)].token;
  }
  // `topk` candidates for each branch, likeliest first.
  void grow(std::span<const Candidate> candidates);
  // The `nodes - 1` likeliest of the pool, or all, under `root`; on a tie the one of the smaller
  // id, so that no node comes without its parent.
  void select(plan::Token root, int nodes, DraftTree& tree);

 private:
  struct Entry {
    plan::Token token;
    float score;     // product of the probabilities on the way
    int32_t parent;  // in the pool; -1: the root
  };
  void keep_best(size_t from, size_t count);

  std::vector<Entry> pool_;
  std::vector<Branch> branches_, before_;
  std::vector<int32_t> order_, node_of_;
  int branched_ = 0;  // branches of all levels so far
};

}  // namespace fathom::runtime
