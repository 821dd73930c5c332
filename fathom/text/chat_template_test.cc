#include "fathom/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

namespace fathom::text {
namespace {

using ::testing::HasSubstr;

const std::string kFolder = "tests/text/data/templates/";

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

Result<std::string> render(
    const std::string& source, const ChatInput& input = {}, RenderLimits limits = {}
) {
  auto parsed = ChatTemplate::parse(source, "<s>", "</s>");
  if (!parsed) return parsed.error();
  return parsed->render(input, limits);
}

std::string failure_of(const std::string& source, RenderLimits limits = {}) {
  auto text = render(source, {}, limits);
  return text.ok() ? "no error: " + *text : text.error().message;
}

ChatInput input_of(const Json& test) {
  ChatInput input;
  input.messages = test["messages"];
  input.tools = test["tools"];
  input.add_generation_prompt = test["add_generation_prompt"].get<bool>();
  input.extra = test["extra"];
  input.now = std::chrono::system_clock::time_point(std::chrono::seconds(test["now"].get<long>()));
  return input;
}

// Texts that jinja2 gives (scripts/compare_templates.py --write).
TEST(ChatTemplate, EqualsJinja2) {
  const Json cases = *parse_json(read_file(kFolder + "cases.json"), "cases");
  int texts = 0;
  int errors = 0;
  for (const Json& test : cases) {
    const std::string source = test.contains("file")
                                   ? read_file(kFolder + test["file"].get<std::string>() + ".jinja")
                                   : test["source"].get<std::string>();
    const auto text = render(source, input_of(test));
    const Json& expected = test["expected"];
    if (expected.contains("error")) {
      EXPECT_FALSE(text.ok()) << source << "\ngives " << *text;
      ++errors;
    } else {
      ASSERT_TRUE(text.ok()) << source << "\n" << text.error().message;
      EXPECT_EQ(*text, expected["text"].get<std::string>()) << source;
      ++texts;
    }
  }
  EXPECT_GT(texts, 70);
  EXPECT_GT(errors, 5);
}

TEST(ChatTemplate, TheTemplatesOwnMessageIsTheError) {
  EXPECT_EQ(failure_of("{{ raise_exception('no ' ~ 'tools') }}"), "chat template: no tools");
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_THAT(failure_of("a\nb{{ 1 + 'x' }}"), HasSubstr("line 2"));
  EXPECT_THAT(failure_of("a\n\n{% if %}"), HasSubstr("line 3"));
  EXPECT_THAT(failure_of("{% for x in y %}"), HasSubstr("endfor"));
  EXPECT_THAT(failure_of("{{ x | no_such }}"), HasSubstr("no_such"));
  EXPECT_THAT(failure_of("{{ x is no_such }}"), HasSubstr("no_such"));
  EXPECT_THAT(failure_of("{% include 'x' %}"), HasSubstr("include"));
  EXPECT_THAT(failure_of("{{ [].append(1) }}"), HasSubstr("append"));
  EXPECT_THAT(failure_of("{{ 'abc"), HasSubstr("without its end"));
}

TEST(ChatTemplate, WorkIsBounded) {
  const std::string loops =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
      "{% endfor %}{% endfor %}{% endfor %}";
  EXPECT_THAT(failure_of(loops), ::testing::AnyOf(HasSubstr("work"), HasSubstr("memory")));
  EXPECT_THAT(
      failure_of("{% set n = namespace(x='ab') %}{% for i in range(60) %}"
                 "{% set n.x = n.x ~ n.x %}{% endfor %}"),
      HasSubstr("memory")
  );
  EXPECT_THAT(failure_of("{{ 'x' * 9999999999 }}"), HasSubstr("work"));
  EXPECT_THAT(failure_of("{{ 'x'.center(9999999999) }}"), HasSubstr("memory"));
  EXPECT_THAT(failure_of("{{ range(999999999) }}"), HasSubstr("range"));
  EXPECT_THAT(
      failure_of("{% for i in range(1000) %}{{ 'xxxxxxxxxx' }}{% endfor %}", {.output_bytes = 100}),
      HasSubstr("100 bytes")
  );
  // A list in a list in a list ...: comparing it with its twin is exponential.
  EXPECT_THAT(
      failure_of("{% set n = namespace(a=[], b=[]) %}{% for i in range(60) %}"
                 "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}"
      ),
      HasSubstr("work")
  );
}

TEST(ChatTemplate, DepthIsBounded) {
  EXPECT_THAT(failure_of("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), HasSubstr("deep"));
  EXPECT_THAT(
      failure_of("{{ " + std::string(100000, '(') + std::string(100000, ')') + "}}"),
      HasSubstr("deep")
  );
  EXPECT_THAT(failure_of("{{ " + std::string(100000, '-') + "1 }}"), HasSubstr("deep"));
  std::string sum = "{{ 1";
  for (int i = 0; i < 100000; ++i) sum += "+1";
  EXPECT_THAT(failure_of(sum + " }}"), HasSubstr("too long"));
  std::string tags;
  for (int i = 0; i < 100000; ++i) tags += "{% if 1 %}";
  EXPECT_THAT(failure_of(tags), HasSubstr("deep"));
  EXPECT_THAT(
      failure_of("{% set n = namespace(a=[]) %}{% for i in range(5000) %}{% set n.a = [n.a] %}"
                 "{% endfor %}{{ n.a }}"),
      HasSubstr("deep")
  );
}

TEST(ChatTemplate, ExtraVariablesWinAndMessagesMayBeBroken) {
  ChatInput input;
  input.extra = {{"add_generation_prompt", false}, {"mine", {1, 2}}};
  input.messages = Json::array({{{"content", "a\xFFz"}}});
  const auto text =
      render("{{ add_generation_prompt }} {{ mine }} {{ messages[0].content }}", input);
  ASSERT_TRUE(text.ok()) << text.error().message;
  EXPECT_EQ(*text, "False [1, 2] a\xEF\xBF\xBDz");
}

}  // namespace
}  // namespace fathom::text
