// A hostile tokenizer.json: reading it must end in a tokenizer or an Error, and a tokenizer must
// encode and decode any text. The text after the first NUL byte is what is encoded.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fathom/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t border = std::min(input.find('\0'), input.size());
  const auto tokenizer = fathom::text::Tokenizer::from_hf_json(input.substr(0, border));
  if (!tokenizer.ok()) return 0;
  const std::string_view text = border < size ? input.substr(border + 1) : " a<s>b\n\xC3\xA9 12 x";
  const auto ids = (*tokenizer)->encode(text);
  for (const auto id : ids) {
    if ((*tokenizer)->token(id).empty()) std::abort();
  }
  (*tokenizer)->decode(ids);
  (*tokenizer)->encode(text, {.add_special_tokens = false, .parse_special_tokens = false});
  return 0;
}
