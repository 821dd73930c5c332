#include "fathom/weights/gguf.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "fathom/weights/gguf_reader.h"

namespace fathom::weights {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kDefaultAlignment = 32;
constexpr int64_t kMaxElements = int64_t{1} << 48;

struct NumberedType {
  uint32_t number;
  DType dtype;
};
constexpr NumberedType kTensorTypes[] = {
    {0, DType::f32},
    {1, DType::f16},
    {2, DType::q4_0},
    {3, DType::q4_1},
    {6, DType::q5_0},
    {7, DType::q5_1},
    {8, DType::q8_0},
    {12, DType::q4_k},
    {13, DType::q5_k},
    {14, DType::q6_k},
    {30, DType::bf16},
};

Result<DType> tensor_type(uint32_t number, const std::string& what) {
  for (const NumberedType& type : kTensorTypes) {
    if (type.number == number) return type.dtype;
  }
  return error(
      "{}: type {} is not supported; supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, "
      "Q4_K, Q5_K, Q6_K",
      what,
      number
  );
}

// One tensor info; `offset` is relative to the tensor data as yet.
Result<std::pair<std::string, WeightEntry>> read_tensor_info(GgufReader& reader) {
  const std::string name{reader.string()};
  const std::string what = fmt::format("{}: tensor {}", reader.source(), name);
  const auto rank = reader.number<uint32_t>();
  if (reader.failed()) return reader.failure();
  if (rank < 1 || rank > 4) return error("{}: rank {}, 1 to 4 are read", what, rank);
  WeightEntry entry;
  int64_t elements = 1;
  for (uint32_t i = 0; i < rank; ++i) {
    const auto dim = reader.number<uint64_t>();
    if (dim > static_cast<uint64_t>(kMaxElements) ||
        (dim > 0 && elements > kMaxElements / static_cast<int64_t>(dim))) {
      return error("{}: dimension {} is too large", what, dim);
    }
    entry.shape.insert(
        entry.shape.begin(), static_cast<int64_t>(dim)
    );  // the file's are innermost first
    elements *= static_cast<int64_t>(dim);
  }
  const auto type = reader.number<uint32_t>();
  entry.offset = reader.number<uint64_t>();
  if (reader.failed()) return reader.failure();
  const Result<DType> dtype = tensor_type(type, what);
  if (!dtype.ok()) return dtype.error();
  if (entry.shape.back() % info(*dtype).block_elements != 0) {
    return error(
        "{}: rows of {} elements do not divide into blocks of {}",
        what,
        entry.shape.back(),
        fathom::name(*dtype)
    );
  }
  entry.dtype = *dtype;
  entry.bytes = static_cast<size_t>(bytes_of(*dtype, elements));
  return std::pair{name, std::move(entry)};
}

Result<uint64_t> alignment_of(const GgufIndex& index, const std::string& source) {
  const auto found = index.metadata.find("general.alignment");
  if (found == index.metadata.end()) return kDefaultAlignment;
  const auto* value = std::get_if<uint64_t>(&found->second);
  if (value == nullptr || *value < 8 || *value > 4096 || (*value & (*value - 1)) != 0) {
    return error("{}: general.alignment is no power of two from 8 to 4096", source);
  }
  return *value;
}

Result<void> read_tensors(GgufReader& reader, uint64_t count, GgufIndex& index) {
  for (uint64_t i = 0; i < count; ++i) {
    auto tensor = read_tensor_info(reader);
    if (!tensor.ok()) return tensor.error();
    if (!index.tensors.emplace(tensor->first, tensor->second).second) {
      return error("{}: tensor {} appears twice", reader.source(), tensor->first);
    }
  }
  const Result<uint64_t> alignment = alignment_of(index, reader.source());
  if (!alignment.ok()) return alignment.error();
  const size_t data = std::min<size_t>(
      (reader.position() + *alignment - 1) / *alignment * *alignment, reader.size()
  );
  const size_t room = reader.size() - data;
  for (auto& [name, entry] : index.tensors) {
    if (entry.offset > room || entry.bytes > room - entry.offset) {
      return error(
          "{}: tensor {} needs {} bytes from {}, the file holds {} bytes of data: truncated",
          reader.source(),
          name,
          entry.bytes,
          entry.offset,
          room
      );
    }
    entry.offset += data;
  }
  return {};
}

}  // namespace

bool is_gguf(const std::string& path) {
  if (!std::filesystem::is_regular_file(path)) return false;
  const Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return false;
  const std::string source;
  const auto magic = GgufReader(file->bytes(), source).number<uint32_t>();
  return magic == kMagic;
}

Result<GgufIndex> parse_gguf(std::span<const std::byte> bytes, const std::string& source) {
  GgufReader reader(bytes, source);
  const auto magic = reader.number<uint32_t>();
  const auto version = reader.number<uint32_t>();
  if (reader.failed() || magic != kMagic) return error("{}: not a GGUF file", source);
  if (version != 2 && version != 3) {
    return error("{}: GGUF version {}; versions 2 and 3 are read", source, version);
  }
  const auto tensors = reader.number<uint64_t>();
  const auto values = reader.number<uint64_t>();
  GgufIndex index;
  for (uint64_t i = 0; i < values && !reader.failed(); ++i) {
    std::string key{reader.string()};
    GgufValue value = reader.value();
    index.metadata.insert_or_assign(std::move(key), value);
  }
  if (reader.failed()) return reader.failure();
  if (Result<void> read = read_tensors(reader, tensors, index); !read.ok()) return read.error();
  return index;
}

Result<GgufFile> GgufFile::open(const std::string& path) {
  Result<MappedFile> mapped = MappedFile::open(path);
  if (!mapped.ok()) return mapped.error();
  GgufFile file;
  file.file_ = std::move(*mapped);
  Result<GgufIndex> index = parse_gguf(file.file_.bytes(), path);
  if (!index.ok()) return index.error();
  file.index_ = std::move(*index);
  return file;
}

Result<WeightMap> GgufFile::weight_map() const {
  Result<MappedFile> mapped = MappedFile::open(path());
  if (!mapped.ok()) return mapped.error();
  WeightMap map;
  const size_t file = map.add_file(std::move(*mapped));
  for (const auto& [name, tensor] : index_.tensors) {
    const std::string translated = hf_name(name);
    if (translated.empty()) {
      return error("{}: tensor {} is of no supported architecture", path(), name);
    }
    WeightEntry entry = tensor;
    entry.file = file;
    if (Result<void> added = map.add(translated, std::move(entry)); !added.ok()) {
      return added.error();
    }
  }
  return map;
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = index_.metadata.find(key);
  return found == index_.metadata.end() ? nullptr : &found->second;
}

std::optional<int64_t> GgufFile::integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return {};
  if (const auto* wide = std::get_if<int64_t>(value)) return *wide;
  if (const auto* wide = std::get_if<uint64_t>(value)) {
    if (*wide <= static_cast<uint64_t>(INT64_MAX)) return static_cast<int64_t>(*wide);
  }
  return {};
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value != nullptr) {
    if (const auto* wide = std::get_if<double>(value)) return *wide;
  }
  if (const std::optional<int64_t> whole = integer(key)) return static_cast<double>(*whole);
  return {};
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  const bool* flag = value == nullptr ? nullptr : std::get_if<bool>(value);
  return flag == nullptr ? std::nullopt : std::optional<bool>(*flag);
}

std::optional<std::string_view> GgufFile::string(std::string_view key) const {
  const GgufValue* value = find(key);
  const auto* text = value == nullptr ? nullptr : std::get_if<std::string_view>(value);
  return text == nullptr ? std::nullopt : std::optional<std::string_view>(*text);
}

std::vector<std::string_view> GgufFile::strings(std::string_view key) const {
  const GgufValue* value = find(key);
  const auto* array = value == nullptr ? nullptr : std::get_if<GgufArray>(value);
  if (array == nullptr || array->element != GgufType::string) return {};
  GgufReader reader(array->bytes, path());
  std::vector<std::string_view> strings;
  strings.reserve(array->count);
  for (uint64_t i = 0; i < array->count; ++i) strings.push_back(reader.string());
  return strings;
}

std::vector<int64_t> GgufFile::integers(std::string_view key) const {
  const GgufValue* value = find(key);
  const auto* array = value == nullptr ? nullptr : std::get_if<GgufArray>(value);
  std::vector<int64_t> integers;
  if (array == nullptr) return integers;
  GgufReader reader(array->bytes, path());
  for (uint64_t i = 0; i < array->count; ++i) {
    const GgufValue element = reader.value(array->element);
    if (const auto* wide = std::get_if<int64_t>(&element)) {
      integers.push_back(*wide);
    } else if (const auto* natural = std::get_if<uint64_t>(&element)) {
      integers.push_back(static_cast<int64_t>(*natural));
    } else {
      return {};
    }
  }
  return integers;
}

std::vector<float> GgufFile::floats(std::string_view key) const {
  const GgufValue* value = find(key);
  const auto* array = value == nullptr ? nullptr : std::get_if<GgufArray>(value);
  if (array == nullptr || array->element != GgufType::f32) return {};
  std::vector<float> floats(array->count);
  if (!floats.empty()) std::memcpy(floats.data(), array->bytes.data(), array->bytes.size());
  return floats;
}

}  // namespace fathom::weights
