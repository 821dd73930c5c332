#include "same_tokens.h"

namespace fathom::testing {
namespace {

TEST(FeatureTest, ChunkedPrefillKeepsTheTokens) {
  expect_same("chunked_prefill");
}

}  // namespace
}  // namespace fathom::testing
