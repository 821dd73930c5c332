#include <random>

#include "same_tokens.h"

namespace fathom::testing {

std::vector<plan::Request> mixed_requests() {
  std::mt19937 random(11);
  std::uniform_int_distribution<plan::Token> token(4, 259);
  const auto draw = [&](size_t n) {
    std::vector<plan::Token> tokens(n);
    for (plan::Token& t : tokens) t = token(random);
    return tokens;
  };
  const std::vector<plan::Token> shared = draw(50);
  std::vector<plan::Request> requests(10);
  for (size_t i = 0; i < requests.size(); ++i) {
    plan::Request& request = requests[i];
    if (i % 2 == 0) request.prompt = shared;
    const std::vector<plan::Token> own = draw(5 + 37 * i % 150);
    request.prompt.insert(request.prompt.end(), own.begin(), own.end());
    request.sampling.ignore_eos = true;
    request.sampling.max_new_tokens = static_cast<int>(8 + 5 * i);
    request.sampling.temperature = i % 3 == 0 ? 0.8f : 0.0f;
    request.sampling.repetition_penalty = i == 4 ? 1.3f : 1.0f;
    request.sampling.seed = 100 + i;
  }
  return requests;
}

}  // namespace fathom::testing
