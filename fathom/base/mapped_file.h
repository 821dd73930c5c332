// A file mapped read-only into memory. Move-only owner of the mapping.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "fathom/base/result.h"

namespace fathom {

class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  // Tells the kernel that this range will not be read again: its pages leave the resident set.
  void drop(size_t offset, size_t size) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
};

}  // namespace fathom
