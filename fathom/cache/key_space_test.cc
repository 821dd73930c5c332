#include "fathom/cache/key_space.h"

#include <gtest/gtest.h>

#include <string>

namespace fathom::cache {
namespace {

// First entries of the vectors in the SipHash paper's reference: key 00 01 .. 0f, message 00 01 ..
TEST(KeySpace, IsSipHash) {
  constexpr uint64_t kKey0 = 0x0706050403020100u, kKey1 = 0x0f0e0d0c0b0a0908u;
  std::string message;
  for (char c = 0; c < 15; ++c) message.push_back(c);
  EXPECT_EQ(key_space(message, kKey0, kKey1), 0xa129ca6149be45e5u);
  EXPECT_EQ(key_space(message.substr(0, 1), kKey0, kKey1), 0x74f839c593dc67fdu);
  EXPECT_EQ(key_space(message.substr(0, 8), kKey0, kKey1), 0x93f5f5799a932462u);
}

TEST(KeySpace, EmptyIsZero) {
  EXPECT_EQ(key_space("", 1, 2), 0u);
}

}  // namespace
}  // namespace fathom::cache
