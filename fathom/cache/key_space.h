// Namespaces of the prefix cache (contracts.md T4): requests that name different salts share
// nothing.
#pragma once

#include <cstdint>
#include <string_view>

namespace fathom::cache {

// SipHash-2-4 (Aumasson and Bernstein 2012) of `text` under a secret key: whoever chooses salts
// cannot aim at another's namespace without knowing the key. 0 for the empty text.
uint64_t key_space(std::string_view text, uint64_t key0, uint64_t key1);

}  // namespace fathom::cache
