#include "fathom/weights/weight_map.h"

namespace fathom::weights {

size_t WeightMap::add_file(MappedFile file) {
  files_.push_back(std::move(file));
  return files_.size() - 1;
}

Result<void> WeightMap::add(const std::string& name, WeightEntry entry) {
  CHECK(entry.file < files_.size(), "tensor {} in file {} of {}", name, entry.file, files_.size());
  const std::string& path = files_[entry.file].path();
  const auto [place, added] = entries_.emplace(name, std::move(entry));
  if (!added) {
    return error(
        "{}: tensor {} is also in {}; a checkpoint holds each tensor once",
        path,
        name,
        files_[place->second.file].path()
    );
  }
  return {};
}

const WeightEntry* WeightMap::find(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second;
}

std::span<const std::byte> WeightMap::bytes(const WeightEntry& entry) const {
  return files_.at(entry.file).bytes().subspan(entry.offset, entry.bytes);
}

int64_t WeightMap::total_bytes() const {
  int64_t total = 0;
  for (const auto& [name, entry] : entries_) total += static_cast<int64_t>(entry.bytes);
  return total;
}

std::string describe(const WeightEntry& entry) {
  std::string text{name(entry.dtype)};
  text += '[';
  for (size_t i = 0; i < entry.shape.size(); ++i) {
    text += (i > 0 ? "," : "") + std::to_string(entry.shape[i]);
  }
  return text + "]";
}

}  // namespace fathom::weights
