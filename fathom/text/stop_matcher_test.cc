#include "fathom/text/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace fathom::text {
namespace {

TEST(StopMatcher, FindsAStopAcrossPieces) {
  StopMatcher matcher({"</end>"});
  EXPECT_EQ(matcher.add("hello <"), "hello ");
  EXPECT_EQ(matcher.held_bytes(), 1u);
  EXPECT_EQ(matcher.add("/en"), "");
  EXPECT_EQ(matcher.add("d> more"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.matched(), "</end>");
  EXPECT_EQ(matcher.stop_offset(), 6u);
  EXPECT_EQ(matcher.add("after"), "");
}

TEST(StopMatcher, GivesBackWhatBecameNoStop) {
  StopMatcher matcher({"abab!"});
  EXPECT_EQ(matcher.add("xabab"), "x");
  EXPECT_EQ(matcher.add("ab"), "ab");
  std::string rest;
  matcher.finish(rest);
  EXPECT_EQ(rest, "abab");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcher, IncludesTheStopWhenAsked) {
  StopMatcher matcher({"\n\n", ""}, true);
  EXPECT_EQ(matcher.add("a\n"), "a");
  EXPECT_EQ(matcher.add("\nb"), "\n\n");
  EXPECT_EQ(matcher.stop_offset(), 1u);
}

TEST(StopMatcher, TheFirstToBeCompleteWinsThenTheLongest) {
  StopMatcher first({"bcd", "c"});
  EXPECT_EQ(first.add("abcd"), "ab");
  EXPECT_EQ(first.matched(), "c");
  StopMatcher longest({"c", "abc", "bc"});
  EXPECT_EQ(longest.add("xabc"), "x");
  EXPECT_EQ(longest.matched(), "abc");
}

// By hand: the stop with the earliest end, the longest of those.
struct Expected {
  std::string text;
  std::string matched;
};
Expected search(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::string best;
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop) && stop.size() > best.size()) best = stop;
    }
    if (!best.empty()) return {text.substr(0, end - best.size()), best};
  }
  return {text, ""};
}

TEST(StopMatcher, EqualsASearchHoweverTheTextIsCut) {
  std::mt19937 random(7);
  const auto word = [&](size_t most) {
    std::string text(random() % most + 1, 'a');
    for (char& c : text) c = "abc"[random() % 3];
    return text;
  };
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(random() % 4);
    for (std::string& stop : stops) stop = word(6);
    const std::string text = word(40);
    StopMatcher matcher(stops);
    std::string out;
    for (size_t at = 0; at < text.size();) {
      const size_t size = random() % 5;
      matcher.add(text.substr(at, size), out);
      at += size;
    }
    matcher.finish(out);
    const Expected expected = search(text, stops);
    ASSERT_EQ(out, expected.text) << text;
    ASSERT_EQ(matcher.matched(), expected.matched) << text;
  }
}

}  // namespace
}  // namespace fathom::text
