#include "fathom/text/normalizer.h"

#include <gtest/gtest.h>

namespace fathom::text {
namespace {

std::string normal_form(const std::string& json, std::string_view text) {
  auto normalizer = Normalizer::from_json(Json::parse(json));
  EXPECT_TRUE(normalizer.ok()) << normalizer.error().message;
  std::string buffer;
  return std::string(normalizer->apply(text, buffer));
}

TEST(Normalizer, UnicodeForms) {
  EXPECT_EQ(normal_form(R"({"type":"NFC"})", "e\u0301 \u1112\u1161\u11ab \u212b"), "é 한 Å");
  EXPECT_EQ(normal_form(R"({"type":"NFD"})", "é 한"), "e\u0301 \u1112\u1161\u11ab");
  EXPECT_EQ(normal_form(R"({"type":"NFKC"})", "ﬁ①²"), "fi12");
  EXPECT_EQ(normal_form(R"({"type":"NFKD"})", "ﬁé"), "fie\u0301");
  EXPECT_EQ(normal_form(R"({"type":"NFC"})", "日本 plain é"), "日本 plain é");
}

TEST(Normalizer, Steps) {
  EXPECT_EQ(normal_form(R"({"type":"Lowercase"})", "ÀBΣİ"), "àbσi\u0307");
  EXPECT_EQ(normal_form(R"({"type":"Strip"})", " \u3000a b\n"), "a b");
  EXPECT_EQ(normal_form(R"({"type":"Strip","strip_right":false})", " a "), "a ");
  EXPECT_EQ(normal_form(R"({"type":"Prepend","prepend":"_"})", "a"), "_a");
  EXPECT_EQ(normal_form(R"({"type":"Prepend","prepend":"_"})", ""), "");
  const std::string accents =
      R"({"type":"Sequence","normalizers":[{"type":"NFD"},{"type":"StripAccents"}]})";
  EXPECT_EQ(normal_form(accents, "éñ"), "en");
  EXPECT_EQ(
      normal_form(R"({"type":"Replace","pattern":{"String":"aa"},"content":"b"})", "aaaaa"), "bba"
  );
  EXPECT_EQ(
      normal_form(R"({"type":"Replace","pattern":{"Regex":"a*"},"content":"-"})", "baac"), "-b--c-"
  );
}

TEST(Normalizer, WithoutStepsTheTextIsReturnedItself) {
  const std::string_view text = "as it is";
  std::string buffer;
  EXPECT_EQ(Normalizer().apply(text, buffer).data(), text.data());
}

}  // namespace
}  // namespace fathom::text
