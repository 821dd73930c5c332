#include "fathom/runtime/draft_tree.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace fathom::runtime {
namespace {

std::vector<plan::Token> tokens_of(const DraftTree& tree) {
  std::vector<plan::Token> tokens;
  for (const DraftTree::Node& node : tree.nodes) tokens.push_back(node.token);
  return tokens;
}

TEST(DraftTreeTest, AChainOfTheLikeliest) {
  TreeGrower grower;
  grower.start(std::vector<Candidate>{{11, 1.0f}});
  grower.grow(std::vector<Candidate>{{12, 1.0f}});
  grower.grow(std::vector<Candidate>{{13, 1.0f}});
  DraftTree tree;
  grower.select(10, 4, tree);
  EXPECT_EQ(tokens_of(tree), (std::vector<plan::Token>{10, 11, 12, 13}));
  EXPECT_TRUE(tree.chain());
  EXPECT_EQ(tree.nodes[3].mask, 0b1111);
  EXPECT_EQ(tree.child(1, 12), 2);
  EXPECT_EQ(tree.child(1, 13), -1);
}

TEST(DraftTreeTest, AChainThatStoppedHasFewerNodes) {
  TreeGrower grower;
  grower.start(std::vector<Candidate>{{11, 0.75f}});
  grower.grow(std::vector<Candidate>{{12, 0.5f}});
  EXPECT_EQ(grower.score(), 0.375f);
  DraftTree tree;
  grower.select(10, 4, tree);
  EXPECT_EQ(tokens_of(tree), (std::vector<plan::Token>{10, 11, 12}));
  EXPECT_EQ(tree.nodes.back().depth, 2);
}

TEST(DraftTreeTest, TheBestBranchesGoOnAndTheBestNodesAreVerified) {
  TreeGrower grower;
  grower.start(std::vector<Candidate>{{1, 0.6f}, {2, 0.3f}});
  // 1: 3 (0.3), 4 (0.06); 2: 5 (0.27), 6 (0.03). Branches: 3 and 5.
  grower.grow(std::vector<Candidate>{{3, 0.5f}, {4, 0.1f}, {5, 0.9f}, {6, 0.1f}});
  ASSERT_EQ(grower.branches().size(), 2u);
  EXPECT_EQ(grower.token(grower.branches()[0]), 3);
  EXPECT_EQ(grower.token(grower.branches()[1]), 5);
  EXPECT_EQ(grower.branches()[0].mask, 0b0101);
  EXPECT_EQ(grower.branches()[1].mask, 0b1010);
  EXPECT_EQ(grower.branches()[1].origin, 1);
  DraftTree tree;
  grower.select(0, 5, tree);
  EXPECT_EQ(tokens_of(tree), (std::vector<plan::Token>{0, 1, 2, 3, 5}));
  EXPECT_FALSE(tree.chain());
  EXPECT_EQ(tree.nodes[4].parent, 2);
  EXPECT_EQ(tree.nodes[4].depth, 2);
  EXPECT_EQ(tree.nodes[4].mask, 0b10101);
}

// Equal scores, ones included: the smaller id wins, so that no node lacks its parent.
TEST(DraftTreeTest, ParentsComeWithTheirChildren) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    const int k = 1 + static_cast<int>(random() % 4), steps = 1 + static_cast<int>(random() % 4);
    const auto level = [&](int n) {
      std::vector<Candidate> candidates;
      for (int i = 0; i < n; ++i) {
        const float p = i % k == 0 ? 1.0f : candidates.back().probability * 0.5f;
        candidates.push_back({static_cast<plan::Token>(random() % 1000), random() % 3 ? p : 0.0f});
        if (i % k != 0)
          candidates.back().probability =
              std::min(p, candidates[candidates.size() - 2].probability);
      }
      return candidates;
    };
    TreeGrower grower;
    grower.start(level(k));
    for (int s = 1; s < steps; ++s) grower.grow(level(k * k));
    const int pool = k + (steps - 1) * k * k;
    DraftTree tree;
    grower.select(7, 2 + static_cast<int>(random() % static_cast<unsigned>(pool)), tree);
    for (size_t i = 1; i < tree.nodes.size(); ++i) {
      const DraftTree::Node& node = tree.nodes[i];
      ASSERT_LT(node.parent, static_cast<int32_t>(i));
      const DraftTree::Node& above = tree.nodes[static_cast<size_t>(node.parent)];
      EXPECT_EQ(node.depth, above.depth + 1);
      EXPECT_EQ(node.mask, above.mask | int64_t{1} << i);
    }
  }
}

TEST(DraftTreeTest, ImpossibleSizesAreRefused) {
  EXPECT_TRUE(validate({.steps = 3, .topk = 4, .nodes = 8}).ok());
  EXPECT_FALSE(validate({.steps = 1, .topk = 1, .nodes = 3}).ok());
  EXPECT_FALSE(validate({.steps = 0, .topk = 1, .nodes = 2}).ok());
  EXPECT_FALSE(validate({.steps = 16, .topk = 8, .nodes = 8}).ok());
  EXPECT_FALSE(validate({.steps = 2, .topk = 1, .nodes = 3, .threshold_single = 0.0f}).ok());
  EXPECT_FALSE(validate({.least = 1.5f}).ok());
  const plan::Lookahead wide = Speculation{.steps = 3, .topk = 4, .nodes = 8}.lookahead();
  EXPECT_EQ(wide.advance_max, 4);
  EXPECT_EQ(wide.span, 9);
  EXPECT_EQ(wide.width, 8);
}

}  // namespace
}  // namespace fathom::runtime
