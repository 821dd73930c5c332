#include "fathom/base/json.h"

#include <gtest/gtest.h>

#include <chrono>

namespace fathom {
namespace {

TEST(Json, KeepsTheOrderOfKeys) {
  const auto json = parse_json(R"({"z":1,"a":[true,null,{"y":-2,"b":0.5}],"m":"s"})", "text");
  ASSERT_TRUE(json.ok()) << json.error().message;
  EXPECT_EQ(json->dump(), R"({"z":1,"a":[true,null,{"y":-2,"b":0.5}],"m":"s"})");
}

TEST(Json, LastOfARepeatedKeyCounts) {
  const auto json = parse_json(R"({"a":1,"b":2,"a":{"c":3},"b":4,"a":5})", "text");
  ASSERT_TRUE(json.ok()) << json.error().message;
  EXPECT_EQ(json->dump(), R"({"a":5,"b":4})");
}

TEST(Json, ErrorsNameTheSourceAndThePlace) {
  const auto broken = parse_json(R"({"a": })", "config.json");
  ASSERT_FALSE(broken.ok());
  EXPECT_NE(broken.error().message.find("config.json: not valid JSON"), std::string::npos);
  EXPECT_NE(broken.error().message.find("column 7"), std::string::npos) << broken.error().message;
  EXPECT_FALSE(parse_json("", "text").ok());
  EXPECT_FALSE(parse_json("{} x", "text").ok());
  EXPECT_FALSE(parse_json("\"\xC3\x28\"", "text").ok());
}

TEST(Json, BoundsDepthAndSize) {
  EXPECT_TRUE(parse_json("[[[[]]]]", "text", {.depth = 4}).ok());
  const auto deep = parse_json("[[[[]]]]", "text", {.depth = 3});
  ASSERT_FALSE(deep.ok());
  EXPECT_EQ(deep.error().message, "text: JSON nested deeper than 3");
  EXPECT_FALSE(parse_json("[1,2,3]", "text", {.bytes = 6}).ok());
}

TEST(Json, ManyKeysTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200000; ++i) text += fmt::format("{}\"k{}\":0", i == 0 ? "" : ",", i);
  text += "}";
  const auto start = std::chrono::steady_clock::now();
  const auto json = parse_json(text, "text");
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(json->size(), 200000U);
  // A search at each key takes minutes; a slow machine under a sanitizer stays far below this.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

}  // namespace
}  // namespace fathom
