// A hostile safetensors file: reading it must end in an Error or in tensors that lie in the file.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "fathom/weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto entries = fathom::weights::parse_safetensors(bytes, "model.safetensors");
  if (!entries.ok()) return 0;
  for (const auto& [name, entry] : *entries) {
    if (entry.offset > size || entry.bytes > size - entry.offset) std::abort();
  }
  return 0;
}
