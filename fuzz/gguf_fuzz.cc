// A hostile GGUF file, by the way that a user's file goes: open, model config, weights, tokenizer.
// Each ends in an Error or in something that can be used; every tensor lies in the file.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "fathom/engine/load_tokenizer.h"
#include "fathom/models/model_config.h"
#include "fathom/weights/gguf.h"

namespace {

// The bytes as a file that exists only in memory.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : fd_(memfd_create("model.gguf", 0)) {
    if (fd_ < 0 || write(fd_, data, size) != static_cast<ssize_t>(size)) std::abort();
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;

  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemoryFile memory(data, size);
  const auto file = fathom::weights::GgufFile::open(memory.path());
  if (!file.ok()) return 0;
  for (const auto& [name, entry] : file->index().tensors) {
    if (entry.offset > size || entry.bytes > size - entry.offset) std::abort();
  }
  (void)fathom::models::parse_model_config(*file);
  (void)file->weight_map();
  const auto tokenizer = fathom::engine::load_tokenizer(memory.path());
  if (tokenizer.ok()) (*tokenizer)->decode((*tokenizer)->encode(" a<s>b\n\xC3\xA9 12 x"));
  return 0;
}
