#include "fathom/weights/gguf_reader.h"

namespace fathom::weights {
namespace {

// Bytes of a value of fixed size, 0 for strings, arrays and unknown types.
uint64_t fixed_size(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    default:
      return 0;
  }
}

}  // namespace

void GgufReader::fail(std::string message) {
  if (failure_.empty()) failure_ = fmt::format("{}: {}", source_, message);
}

std::span<const std::byte> GgufReader::take(uint64_t n) {
  if (failed() || n > bytes_.size() - position_) {
    fail(fmt::format("ends at byte {} where {} more are wanted: truncated", bytes_.size(), n));
    return {};
  }
  const std::span<const std::byte> taken = bytes_.subspan(position_, n);
  position_ += n;
  return taken;
}

std::string_view GgufReader::string() {
  const auto length = number<uint64_t>();
  const std::span<const std::byte> raw = take(length);
  return {reinterpret_cast<const char*>(raw.data()), raw.size()};
}

GgufArray GgufReader::array() {
  GgufArray array;
  array.element = static_cast<GgufType>(number<uint32_t>());
  array.count = number<uint64_t>();
  const size_t begin = position_;
  const uint64_t size = fixed_size(array.element);
  if (array.element == GgufType::string) {
    for (uint64_t i = 0; i < array.count && !failed(); ++i) string();
  } else if (size == 0) {
    fail(fmt::format("array of value type {}", static_cast<uint32_t>(array.element)));
  } else if (array.count > bytes_.size() / size) {
    fail(fmt::format("array of {} elements in {} bytes", array.count, bytes_.size()));
  } else {
    take(array.count * size);
  }
  array.bytes = bytes_.subspan(begin, position_ - begin);
  return array;
}

GgufValue GgufReader::value(GgufType type) {
  switch (type) {
    case GgufType::u8:
      return uint64_t{number<uint8_t>()};
    case GgufType::i8:
      return int64_t{number<int8_t>()};
    case GgufType::u16:
      return uint64_t{number<uint16_t>()};
    case GgufType::i16:
      return int64_t{number<int16_t>()};
    case GgufType::u32:
      return uint64_t{number<uint32_t>()};
    case GgufType::i32:
      return int64_t{number<int32_t>()};
    case GgufType::u64:
      return number<uint64_t>();
    case GgufType::i64:
      return number<int64_t>();
    case GgufType::f32:
      return double{number<float>()};
    case GgufType::f64:
      return number<double>();
    case GgufType::boolean:
      return number<uint8_t>() != 0;
    case GgufType::string:
      return string();
    case GgufType::array:
      return array();
  }
  fail(fmt::format("unknown value type {}", static_cast<uint32_t>(type)));
  return false;
}

}  // namespace fathom::weights
