// Reads GGUF primitives from foreign bytes. A read past the end marks the reader as failed and
// gives zeros; the caller asks failed() where it matters.
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "fathom/weights/gguf.h"

namespace fathom::weights {

class GgufReader {
 public:
  // Both must outlive the reader.
  GgufReader(std::span<const std::byte> bytes, const std::string& source)
      : bytes_(bytes), source_(source) {}

  template <class T>
  T number() {
    T value{};
    const std::span<const std::byte> raw = take(sizeof(T));
    if (!raw.empty()) std::memcpy(&value, raw.data(), sizeof(T));
    return value;
  }
  std::string_view string();
  GgufValue value() { return value(static_cast<GgufType>(number<uint32_t>())); }
  GgufValue value(GgufType type);

  size_t position() const { return position_; }
  size_t size() const { return bytes_.size(); }
  const std::string& source() const { return source_; }
  bool failed() const { return !failure_.empty(); }
  Error failure() const { return Error{failure_}; }

 private:
  // The next `n` bytes; empty and failed when there are fewer.
  std::span<const std::byte> take(uint64_t n);
  GgufArray array();
  void fail(std::string message);

  std::span<const std::byte> bytes_;
  const std::string& source_;
  size_t position_ = 0;
  std::string failure_;
};

}  // namespace fathom::weights
