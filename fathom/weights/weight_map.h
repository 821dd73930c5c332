// WeightMap: the index of a checkpoint: name -> dtype, shape and byte range, over the mapped files
// it owns. Names are those of the HF checkpoint; GGUF names are translated when the map is made.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "fathom/base/mapped_file.h"
#include "fathom/base/result.h"
#include "fathom/core/dtype.h"

namespace fathom::weights {

struct WeightEntry {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;  // outermost first, as [N, K]
  size_t file = 0;             // index into WeightMap::files()
  size_t offset = 0;           // bytes from the start of the file
  size_t bytes = 0;            // checked against dtype, shape and the file's size
};

class WeightMap {
 public:
  // Adds a file and returns its index.
  size_t add_file(MappedFile file);
  // An Error when the name is there already.
  Result<void> add(const std::string& name, WeightEntry entry);

  const WeightEntry* find(const std::string& name) const;
  const std::map<std::string, WeightEntry>& entries() const { return entries_; }
  const std::vector<MappedFile>& files() const { return files_; }
  std::vector<MappedFile> take_files() { return std::move(files_); }
  std::span<const std::byte> bytes(const WeightEntry& entry) const;
  int64_t total_bytes() const;

 private:
  std::vector<MappedFile> files_;
  std::map<std::string, WeightEntry> entries_;
};

// "bf16[576,1536]", for messages.
std::string describe(const WeightEntry& entry);

}  // namespace fathom::weights
