// Prompts for `fathom bench serving`, drawn by seed: the same options give the same prompts.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "fathom/base/result.h"
#include "fathom/plan/request.h"

namespace fathom::apps {

struct DatasetOptions {
  std::string name = "sharegpt";  // sharegpt | random | generated-shared-prefix
  std::string path;               // of a ShareGPT file
  int num_prompts = 1000;
  uint64_t seed = 1;
  int sharegpt_output_len = 0;      // 0: the length of the dataset's own answer
  int sharegpt_context_len = 2048;  // longer conversations are left out
  int random_input_len = 1024;
  int random_output_len = 1024;
  double random_range_ratio = 0.0;  // lengths are drawn from [ratio * len, len]
  int gsp_num_groups = 64;
  int gsp_prompts_per_group = 16;
  int gsp_system_prompt_len = 2048;
  int gsp_question_len = 128;
  int gsp_output_len = 256;
};

struct BenchPrompt {
  std::variant<std::string, std::vector<plan::Token>> prompt;
  int input_tokens = 0;
  int output_tokens = 0;  // to be generated
};

// Ids of a text, by the tokenizer of the server that is measured.
using Tokenize = std::function<Result<std::vector<plan::Token>>(const std::string& text)>;

Result<std::vector<BenchPrompt>> make_dataset(
    const DatasetOptions& options, const Tokenize& tokenize
);

}  // namespace fathom::apps
