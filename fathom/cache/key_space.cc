#include "fathom/cache/key_space.h"

#include <bit>
#include <cstddef>

namespace fathom::cache {
namespace {

struct SipState {
  uint64_t v0, v1, v2, v3;

  void round() {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  }

  void absorb(uint64_t word) {
    v3 ^= word;
    round();
    round();
    v0 ^= word;
  }
};

uint64_t little_endian(std::string_view bytes) {
  uint64_t word = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    word |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  return word;
}

}  // namespace

uint64_t key_space(std::string_view text, uint64_t key0, uint64_t key1) {
  if (text.empty()) return 0;
  SipState state{
      key0 ^ 0x736f6d6570736575u,
      key1 ^ 0x646f72616e646f6du,
      key0 ^ 0x6c7967656e657261u,
      key1 ^ 0x7465646279746573u,
  };
  const uint64_t length = text.size();
  for (; text.size() >= 8; text.remove_prefix(8)) state.absorb(little_endian(text.substr(0, 8)));
  state.absorb(little_endian(text) | length << 56);
  state.v2 ^= 0xff;
  for (int i = 0; i < 4; ++i) state.round();
  return state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
}

}  // namespace fathom::cache
